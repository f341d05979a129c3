"""Paths of InstructRL's own files, in a checkout and in an installed package.

A wheel contains `conf/` of the checkout as `instructrl/conf/`; all other files have the same path in both. Scripts of
the launchers and word lists of the tools are beside the modules that read them.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IMPORT_ROOT = PACKAGE.parent  # holds `instructrl`, `data_tools` and `launchers`: the checkout, or site-packages
INSTALLED_CONFIG_DIR = PACKAGE / "conf"
CONFIG_DIR = INSTALLED_CONFIG_DIR if INSTALLED_CONFIG_DIR.is_dir() else IMPORT_ROOT / "conf"
IS_CHECKOUT = (IMPORT_ROOT / "pyproject.toml").is_file() and (IMPORT_ROOT / "train.py").is_file()
TRAIN, EVALUATE = (  # in printed commands
    (("python", "train.py"), ("python", "eval.py")) if IS_CHECKOUT else (("instructrl-train",), ("instructrl-eval",))
)

VOCABULARY = PACKAGE / "data/text/vocabulary.txt"  # one word piece per line; python -m data_tools.vocabulary
REPORT_STYLE = PACKAGE / "evaluation/report/report.css"
PAGE_TEMPLATES = PACKAGE / "evaluation/report/templates"
SHIPPED_WEIGHTS = PACKAGE / "models/encoders/shipped"  # NAME.safetensors of encoders that InstructRL ships
PLAY_PAGE = PACKAGE / "play/page"
SHIPPED_AGENT = PACKAGE / "play/agent"  # as Agent.save writes it
RLBENCH_INTERFACE = PACKAGE / "sim/rlbench/interface.json"
