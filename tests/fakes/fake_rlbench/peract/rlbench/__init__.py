"""The stand-in for PerAct's fork of RLBench."""

__version__ = "1.2.0"
