#!/usr/bin/env bash
# Installs pinned packages for NVIDIA GPUs into .venv, and runs a computation on each GPU.
#
#   launchers/setup/setup_gpu.sh            on a machine with GPUs
#   launchers/setup/setup_gpu.sh --login    on a cluster's login node, without GPUs: install only
#
# PYTHON: the Python to use; if the machine has none, it is installed. Repeated calls keep an existing installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launchers/setup/environment.sh
source launchers/setup/environment.sh

case ${1-} in
'' | --login) ;;
*) fail "$1: no such option; allowed: --login" ;;
esac
[[ $(uname -s) == Linux ]] || fail "$(uname -sm): JAX's GPU packages need Linux"
if [[ ${1-} != --login ]]; then
    nvidia-smi -L >/dev/null 2>&1 ||
        fail "nvidia-smi: finds no GPU; install NVIDIA's driver, or on a login node run launchers/setup/setup_gpu.sh --login"
fi
make_environment requirements-gpu.txt
if [[ ${1-} == --login ]]; then
    echo "GPUs: not checked; check them with: srun --gpus=1 $VENV/bin/python -m launchers.setup.check_devices gpu"
else
    "$VENV/bin/python" -m launchers.setup.check_devices gpu
fi
