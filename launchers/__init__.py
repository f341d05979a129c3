"""Launchers: run jobs on this machine, on SLURM or on a TPU pod, from the same job specs."""
