"""quality: what a stack is worth beside what it costs: text made ready, models trained on it, and their losses."""
