"""Regular expressions of words that the settings of several launchers accept."""

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"  # name of an environment variable
VARIABLE_VALUE = r"(?!true$|false$).*"  # YAML's flags would become True and False
PART = r"[A-Za-z0-9][A-Za-z0-9_.:@-]*"  # of a name with slashes
IMAGE = rf"{PART}(/{PART})*"  # of a container or a machine
