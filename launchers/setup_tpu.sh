#!/usr/bin/env bash
# Install what a TPU host needs into .venv, at fixed versions, and look whether its chips can be used.
#
#   launchers/setup_tpu.sh
#
# `python -m launchers.tpu setup` and sweeps run it on every host of a pod. PYTHON: the Python 3.11 to take; without one
# on the machine it is installed. Started again, it keeps what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/environment.sh
source launchers/environment.sh

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail "$(uname -sm): a TPU host is Linux on x86_64"
make_environment requirements-tpu.txt
"$VENV/bin/python" -m launchers.devices tpu
