"""`hydra/launcher=slurm`: every cell a job of a Slurm array."""
