"""A trained network on a test split: scores, their tables, plots and pictures."""
