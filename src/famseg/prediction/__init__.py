"""Trained networks on pictures: which files, what is measured in them, and how it is shown."""
