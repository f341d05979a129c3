"""Launchers: run jobs on this machine, SLURM, TPU pods or Kubernetes, or through SkyPilot, from the same job specs."""
