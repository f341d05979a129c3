#!/usr/bin/env bash
# Installs Meta-World into an environment of its own, since it pins a MuJoCo that cannot be installed beside ours, and plays
# one episode to check the installation.
#
#   launchers/setup/setup_metaworld.sh [PYTHON [ENVIRONMENT]]
#
# PYTHON: of InstructRL, relative to the checkout (.venv/bin/python). ENVIRONMENT: the folder to create (.venv-metaworld).
# Repeated calls keep what is installed.
set -euo pipefail

python=${1:-.venv/bin/python}
environment=${2:-.venv-metaworld}

fail() {
    echo "error: $*" >&2
    exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
NEWEST_PYTHON=13 bash launchers/setup/python.sh "$environment" # the last one with wheels of that MuJoCo
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements-metaworld.txt ||
    fail "requirements-metaworld.txt: cannot be installed into $environment; see above"
echo "Meta-World: installed in $environment"
"$python" -m data_tools.simulators play --sim metaworld --task reach-v3 --python "$environment/bin/python"
