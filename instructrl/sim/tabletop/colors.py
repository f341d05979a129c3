"""The twenty colours of RLBench's variations, under its names, with different RGB values.

Chosen so that any two are distinguishable under the scene's lighting with both renderers (test_rendering.py).
"""

from types import MappingProxyType

COLORS = MappingProxyType(
    {
        "red": (0.92, 0.05, 0.05),
        "maroon": (0.42, 0.02, 0.08),
        "lime": (0.50, 1.00, 0.10),
        "green": (0.04, 0.52, 0.10),
        "blue": (0.06, 0.12, 0.98),
        "navy": (0.02, 0.03, 0.36),
        "yellow": (1.00, 0.90, 0.05),
        "cyan": (0.10, 0.95, 0.95),
        "magenta": (1.00, 0.05, 0.90),
        "silver": (0.72, 0.73, 0.76),
        "gray": (0.40, 0.40, 0.41),
        "orange": (1.00, 0.48, 0.02),
        "olive": (0.46, 0.45, 0.03),
        "purple": (0.45, 0.02, 0.52),
        "teal": (0.02, 0.46, 0.48),
        "azure": (0.05, 0.52, 1.00),
        "violet": (0.58, 0.34, 1.00),
        "rose": (1.00, 0.30, 0.52),
        "black": (0.03, 0.03, 0.03),
        "white": (1.00, 1.00, 1.00),
    }
)
COLOR_NAMES = tuple(COLORS)
