"""`hydra/launcher=ray`: as many cells at once as there are GPUs or cores, on one machine or a Ray cluster."""
