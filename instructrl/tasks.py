"""Names of the embedded tasks: each file in sim/tabletop/tasks is one, and installed packages add others.

Apart from the configuration, since an environment of gymnasium needs none.
"""

from collections.abc import Callable
from typing import Any

from instructrl.interface import check_interface
from instructrl.package_files import PACKAGE
from instructrl.registry import Registry, modules

TASKS: Registry[Callable[[], Any]] = Registry(
    "task",
    modules("instructrl.sim.tabletop.tasks", PACKAGE / "sim" / "tabletop" / "tasks"),
    group="instructrl.tasks",
    base="instructrl.sim.tabletop.task:Task",
    check=check_interface,
)
