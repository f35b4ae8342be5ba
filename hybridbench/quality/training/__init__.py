"""training: models trained on a corpus by the step that sweeps measure, and judged on text that was held out."""
