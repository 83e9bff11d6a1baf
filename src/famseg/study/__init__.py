"""Studies: the cells of a sweep, what became of them, and what is still to do."""
