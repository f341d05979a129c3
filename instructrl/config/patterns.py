"""Regular expressions of words that the settings of several launchers accept."""

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"  # name of an environment variable
READ_ONLY = "BASHOPTS|BASH_VERSINFO|EUID|PPID|SHELLOPTS|UID"  # variables that bash lets nobody set
VARIABLE_VALUE = r"(?!true$|false$).*"  # YAML's flags would become True and False
PART = r"[A-Za-z0-9][A-Za-z0-9_.:@-]*"  # of a name with slashes
IMAGE = rf"{PART}(/{PART})*"  # of a container or a machine


def variable_except(*reserved: str) -> str:
    """Names of variables without those of which the whole name matches one of the expressions."""
    return rf"(?!({'|'.join(reserved)})$){VARIABLE}"
