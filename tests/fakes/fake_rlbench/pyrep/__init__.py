"""The stand-in for PyRep."""

__version__ = "4.1.0.3"
