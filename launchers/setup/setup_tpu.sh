#!/usr/bin/env bash
# Installs pinned packages for a TPU host into .venv, and checks its chips.
#
#   launchers/setup/setup_tpu.sh
#
# `python -m launchers.tpu setup` and sweeps run it on every host of a pod. PYTHON: the Python to use; if the machine
# has none, it is installed. Repeated calls keep an existing installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launchers/setup/environment.sh
source launchers/setup/environment.sh

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail "$(uname -sm): a TPU host is Linux on x86_64"
make_environment requirements-tpu.txt
"$VENV/bin/python" -m launchers.setup.check_devices tpu
