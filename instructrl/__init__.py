"""InstructRL: train and evaluate robot agents that follow written instructions."""

__version__ = "0.1.0"
