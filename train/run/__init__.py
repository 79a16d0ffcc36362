"""The directory of a run: its record, checkpoints, metrics and exported weights."""
