"""Launchers: run jobs on this machine, on SLURM, on a TPU pod or through SkyPilot, from the same job specs."""
