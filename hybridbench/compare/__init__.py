"""compare: stored results beside each other, cell by cell, as ratios with intervals and a verdict for each."""
