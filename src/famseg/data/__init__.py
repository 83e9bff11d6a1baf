"""Data sets, their splits, and the batches made of them."""
