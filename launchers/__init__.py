"""One launch description, three ways to run it: here, on SLURM, on a TPU pod."""
