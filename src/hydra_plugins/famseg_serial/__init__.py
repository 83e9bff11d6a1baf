"""`hydra/launcher=serial`: one cell after the other on this machine."""
