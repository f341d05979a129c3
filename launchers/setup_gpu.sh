#!/usr/bin/env bash
# Install what a machine with NVIDIA GPUs needs into .venv, at fixed versions, and compute something on them.
#
#   launchers/setup_gpu.sh            on a machine with GPUs
#   launchers/setup_gpu.sh --login    on a cluster's login node, which has none: install only
#
# PYTHON: the Python 3.11 to take; without one on the machine it is installed. Started again, it keeps what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/environment.sh
source launchers/environment.sh

case ${1-} in
'' | --login) ;;
*) fail "$1: no such option; allowed: --login" ;;
esac
[[ $(uname -s) == Linux ]] || fail "$(uname -sm): JAX's GPU packages need Linux"
if [[ ${1-} != --login ]]; then
    nvidia-smi -L >/dev/null 2>&1 ||
        fail "nvidia-smi: finds no GPU; install NVIDIA's driver, or on a login node say launchers/setup_gpu.sh --login"
fi
make_environment requirements-gpu.txt
if [[ ${1-} == --login ]]; then
    echo "GPUs: not tried; do so with: srun --gpus=1 $VENV/bin/python -m launchers.devices gpu"
else
    "$VENV/bin/python" -m launchers.devices gpu
fi
