"""`hydra/sweeper=rows`: the rows of a table, where a product of axes would hold too much."""
