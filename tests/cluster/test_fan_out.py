"""A thousand hosts at a time, with the usual limit of open files; a short script stands in for ssh."""

import subprocess
import sys
from pathlib import Path

from tests.fixtures.waiting import bearers
from tests.paths import ROOT

# The host FAILING fails, and LOST does not answer when a command is to run. Others wait for a message of the launcher
# if they run its command, else they answer a query.
SSH = """#!/bin/sh
[ -z "$LOG" ] || echo "$*" >>"$LOG"
case "$*" in
*@$LOST\\ *HELD_BY*) exit 255 ;;
*@$FAILING\\ *) echo "no card"; exit 7 ;;
*HELD_BY*) read -r variables; echo here; while read -r line; do case $line in stop*) exit 75 ;; esac; done ;;
*hang*) : >"$MARKS/$$"; while :; do read -r line; sleep 9; done ;;
*) cat >/dev/null; echo ok ;;
esac
"""
BEGIN = """
import os, resource, signal, sys, threading, time
from pathlib import Path
from instructrl.errors import report_user_errors
from launchers.ssh import background
from launchers.ssh.broadcast import run_on_all
from launchers.ssh.host import MAX_QUERIES, Host, query_all
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
hosts = [Host(f"host-{n}", f"host-{n}", user="me") for n in range(1000)]
shown = []
"""


def launch(tmp_path: Path, program: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a program that reaches a thousand hosts, and check that no ssh is left; `variables` are the script's."""
    ssh, marks = tmp_path / "bin/ssh", tmp_path / "marks"
    for folder in (ssh.parent, marks):
        folder.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    environment = {
        "PATH": f"{ssh.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MARKS": str(marks),
        "FAILING": "none",
        "LOST": "none",
        **variables,
    }
    words = [sys.executable, "-c", BEGIN + program]
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ran.stderr, ran.stderr
    assert bearers(str(marks)) == {}
    return ran


def test_short_commands_reach_all_hosts(tmp_path: Path) -> None:
    ran = launch(
        tmp_path,
        """
with report_user_errors():
    print(query_all(hosts[:999], ["true"] * 999, data=b"x" * 200_000) == ["ok\\n"] * 999)
    print(sorted({text for _, text in background.status(hosts[:200], "study")}))
    query_all(hosts[900:], ["true"] * 100)
""",
        FAILING="host-999",
    )
    assert ran.returncode == 7 and ran.stdout == "True\n['ok']\n"
    assert ran.stderr == "error: host-999: ended with code 7\n"


def test_one_failure_of_a_thousand_stops_all(tmp_path: Path) -> None:
    ran = launch(
        tmp_path,
        """
with report_user_errors():
    run_on_all(hosts, ["true"] * 1000, "study", show=lambda host, line: shown.append(line))
""",
        FAILING="host-999",
    )
    assert ran.returncode == 7
    line = "error: host-999: the command ended with code 7; its last line: no card; the others were stopped\n"
    assert ran.stderr == line


def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    ran = launch(
        tmp_path,
        """
def show(host, line):
    shown.append(line)
    if len(shown) == 1000:
        os.kill(os.getpid(), signal.SIGINT)

def interrupt():
    while len(list(Path(os.environ["MARKS"]).iterdir())) < MAX_QUERIES:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

try:
    run_on_all(hosts, ["true"] * 1000, "study", show=show)
except KeyboardInterrupt:
    print("run ended", set(shown))
threading.Thread(target=interrupt).start()
try:
    query_all(hosts, ["hang"] * 1000)
except KeyboardInterrupt:
    print("query ended")
""",
    )
    assert ran.stdout.splitlines()[1:] == ["run ended {'here'}", "query ended"]


def test_too_few_handles_are_named_before_anything_is_started(tmp_path: Path) -> None:
    ran = launch(
        tmp_path,
        """
with report_user_errors():
    run_on_all(hosts + hosts, ["true"] * 2000, "study")
""",
    )
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("error: ulimit -n: found 1024 open files at most, but 2000 hosts need 20")


def test_a_lost_host_is_not_waited_for_when_the_others_are_stopped(tmp_path: Path) -> None:
    """Each attempt to reach it takes ten seconds."""
    ran = launch(
        tmp_path,
        """
with report_user_errors():
    background.follow(hosts[:3], "study")
""",
        LOST="host-1",
        LOG=str(tmp_path / "log"),
    )
    assert ran.returncode == 1
    assert ran.stderr == "error: host-1: the host does not answer; the others were stopped\n"
    log = (tmp_path / "log").read_text()
    reached = {verb: [n for n in range(3) if f"{verb} study study:host-{n}" in log] for verb in ("status", "finish")}
    assert reached == {"status": [0, 1, 2], "finish": [0, 2]}
    assert "terminate study study:host-1" not in log
