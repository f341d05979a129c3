#!/usr/bin/env bash
# Select the Python to use: the one of the variable PYTHON, else the newest on PATH for which the pinned packages have
# wheels and which can create an environment. environment.sh sources this file; make runs it:
#
#   launchers/setup/python.sh .venv     create this environment; one with a suitable Python is kept
set -euo pipefail

# of Python 3; NEWEST: the last one with wheels of all packages in requirements.txt, or of what NEWEST_PYTHON is set for
readonly OLDEST=11 NEWEST=${NEWEST_PYTHON:-14}

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints the minor version, 12 for Python 3.12. Fails if the program does not run (pyenv's shims) or has no venv.
minor_of() {
    "$1" -c 'import sys, venv, ensurepip; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null
}

suitable() {
    local minor
    minor=$(minor_of "$1") && ((minor >= OLDEST && minor <= NEWEST))
}

# Sets `python` to the newest suitable one.
newest_python() {
    local name minor best=0
    for name in python3.14 python3.13 python3.12 python3.11 python3 python; do
        if suitable "$name" && minor=$(minor_of "$name") && ((minor > best)); then
            best=$minor
            python=$name
        fi
    done
    ((best > 0))
}

# Sets `python` to $PYTHON, which may be newer than the tested versions.
named_python() {
    local minor
    python=$PYTHON
    minor=$(minor_of "$python") && ((minor >= OLDEST)) ||
        fail "PYTHON=$PYTHON: not a Python 3.$OLDEST or newer with venv; set another one, or unset PYTHON"
}

# make_venv FOLDER: creates it with the `python` of find_python. One with a suitable Python, or the one of PYTHON, is kept.
make_venv() {
    local there
    there=$(minor_of "$1/bin/python") || there=0
    if [[ -n ${PYTHON:-} ]]; then
        named_python
        if [[ $there == "$(minor_of "$python")" ]]; then return; fi
    elif suitable "$1/bin/python"; then
        return
    else
        find_python
    fi
    "$python" -m venv --clear "$1" || fail "$1: cannot be created by $python; see above, and free space in $PWD"
    echo "Python: $("$1/bin/python" -c 'import platform; print(platform.python_version())') ($python), in $1"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    find_python() {
        newest_python || fail "python3: found none from 3.$OLDEST to 3.$NEWEST with venv; install one, or run make" \
            "PYTHON=/path/to/python3.$OLDEST"
    }
    make_venv "$1"
fi
