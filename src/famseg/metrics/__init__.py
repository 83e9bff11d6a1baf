"""Scores of segmentations: overlap, boundaries, jaggedness, and their summaries."""
