"""The declarations of a class of settings are checked when it is loaded."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.help import help_text
from instructrl.config.environment import SIMULATORS
from instructrl.config.model import ENCODERS, HEADS
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, report_user_errors
from tests.fixtures.packages import THIRD_PARTY, install, packages_in

CLASS = "@dataclass\nclass GatedConfig(EncoderConfig):\n"
GROUP = f"@dataclass\nclass Noise:\n    level: 'float' = 0.1\n\n\n{CLASS}"
GROUP += "    noise: Noise = __import__('dataclasses').field(default_factory=Noise)\n"
PARTS = ("encoder=gated", "head=linear", "sim=plane", "task=touch_dot")
GATES = '    gates: int = number(2, low=1, high=16, help="gates of each patch")\n'
NAME = r"acme_robots\.settings\.GatedConfig"
KEYWORDS = "@dataclass(kw_only=True)\nclass GatedConfig(EncoderConfig):\n    implementation: ClassVar[str] = 'a:B'\n"
KEYWORDS += "    width: int\n\n\nclass Other(EncoderConfig)"
CAMERAS = "    cameras: list[str] = choice_list('top', choices=('top', 'a/b'), help='a')\n"
TORQUE = "    actions: str = one_of('torque', default='torque', help='a')\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """The folder in which the package is installed."""
    install(THIRD_PARTY, tmp_path)
    yield tmp_path


def compose_with(site: Path, before: str, after: str) -> TrainConfig:
    """Compose with their settings, of which a part is another."""
    file = site / "acme_robots" / "settings.py"
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))
    with packages_in(site):
        assert "encoder.gates" in help_text("train", TrainConfig, PARTS, about="")
        return compose("train", TrainConfig, PARTS)


@pytest.mark.parametrize("registry", [ENCODERS, HEADS, SIMULATORS], ids=["encoders", "heads", "simulators"])
def test_our_own_settings_are_accepted(registry) -> None:
    for name in registry.own:
        assert registry[name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "from dataclasses import dataclass\n",
            "from __future__ import annotations\nfrom dataclasses import dataclass\n",
        ),
        ("    gates: int =", "    import typing\n    gates: typing.Optional[int] ="),
        ("    gates: int =", "    gates: 'int' ="),
        (GATES, "    gates: int = 2\n"),  # without limits and help
        ("@dataclass\nclass LinearConfig", "@dataclass(slots=True)\nclass LinearConfig"),
        (
            "@dataclass\nclass GatedConfig(EncoderConfig)",
            "class Sized:\n    dim: int\n\n\n@dataclass\nclass GatedConfig(Sized, EncoderConfig)",
        ),
        (
            "    fuses_text: ClassVar[bool] = False\n",
            "    @property\n    def fuses_text(self) -> bool:\n        return self.gates > 100\n",
        ),
        (CLASS, GROUP),
    ],
)
def test_declarations_may_be_written_in_all_ways(site: Path, before: str, after: str) -> None:
    assert compose_with(site, before, after).encoder.gates == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            GATES,
            GATES.replace("int", "set", 1),
            rf"{NAME}\.gates: found the type set; allowed: int, float, bool, str or",
        ),
        (GATES, GATES.replace("int", "int | str", 1), r"gates: found the type int \| str; allowed"),
        (GATES, GATES.replace("int", "list", 1), r"gates: found the type list; allowed"),
        (GATES, GATES.replace("int", "str", 1), r"gates: found the type str; allowed"),
        (
            GATES,
            GATES.replace("int", "'Nothing'", 1),
            r"found a type that cannot be read \(NameError: name 'Nothing' is",
        ),
        (
            CLASS,
            GROUP.replace("'float'", "'Nothing'"),
            r"settings\.Noise: found a type that cannot be read \(NameError",
        ),
        (GATES, GATES.replace("(2", "('two'"), r"gates: found the default 'two'; allowed: int;"),
        (GATES, GATES.replace("(2", "(None"), r"gates: found the default None; allowed: int;"),
        (GATES, GATES.replace("(2", "(20"), r"gates: found 20; allowed: an integer at least 1 and at most 16;"),
        (
            "@dataclass\nclass GatedConfig(EncoderConfig)",
            KEYWORDS,
            r"width: found no default; allowed: one, as by number",
        ),
        (GATES, f"{GATES}    depth = 3\n", r"depth: found 3 without a type, which is no default of the setting;"),
        (
            GATES,
            f"{GATES}    dim: str = number(8, help='a')\n",
            r"dim: found the type str; allowed: that of EncoderConf",
        ),
        (GATES, f"{GATES}    def __post_init__(self): 1 / 0\n", r"without arguments \(ZeroDivisionError: division by"),
        ("@dataclass\nclass GatedConfig", "class GatedConfig", rf"{NAME}: found a class without @dataclass; allowed"),
        (
            'ClassVar[str] = "acme_robots.networks:G',
            'str = "acme_robots.networks:G',
            r"implementation: found a setting;",
        ),
        ("networks:Gated", "networks.Gated", r"implementation: found .*; allowed: a text \"module:class\""),
        ("ClassVar[bool] = False", "ClassVar[bool] = 'no'", r"fuses_text: found no; allowed: bool"),
        ("check(self, rendered_size: int)", "check(self)", rf"{NAME}: found check\(\); allowed: what can be called as"),
        (
            "    radius:",
            f"{CAMERAS}    radius:",
            r"PlaneConfig\.cameras: found top, a/b; allowed: .* names as of variables in Python",
        ),
        (
            "    radius:",
            f"{TORQUE}    radius:",
            r"PlaneConfig\.actions: found torque; allowed: actions_field\('keyframe'",
        ),
    ],
)
def test_a_declaration_that_cannot_be_used_is_one_line(site: Path, before: str, after: str, line: str) -> None:
    kind = "plane" if "radius" in before else "gated"
    where = (
        rf"^(encoder|sim)\.kind: found {kind} of package acme-robots 0\.1\.0, whose entry point .*, cannot be used: "
    )
    with pytest.raises(InputError, match=f"{where}.*{line}") as error:
        compose_with(site, before, after)
    assert str(error.value).endswith("; repair, update or uninstall the package")


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(3)", "x = = 3"])
def test_an_import_that_fails_is_told_with_its_place(site: Path, fault: str) -> None:
    file, types = site / "acme_robots" / "settings.py", "(ZeroDivisionError|SystemExit|SyntaxError)"
    with pytest.raises(InputError, match=rf"cannot be imported \({types}: .*, in {file}, line 12\); repair, update"):
        compose_with(site, "\n\n@dataclass\nclass GatedConfig", f"\n{fault}\n\n@dataclass\nclass GatedConfig")


@pytest.mark.parametrize("fault", ["self.nothing", "int('x')", "1 + None"])
def test_an_exception_of_their_check_is_told_with_its_place(
    fault: str, site: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end, report_user_errors():
        compose_with(site, "        if self.dim % self.gates:", f"        {fault}\n        if self.dim % self.gates:")
    what, file = r"\((AttributeError|ValueError|TypeError): .*", site / "acme_robots" / "settings.py"
    line = rf"error: code of another package failed {what}, in {file}, line 25\); repair, "
    assert end.value.code == 1 and re.fullmatch(f"{line}.*\n", capsys.readouterr().err)
