"""The EGL device that renders on the GPU of this process.

EGL counts devices in an order of its own, software renderers among them, and does not heed CUDA_VISIBLE_DEVICES: left
alone, MuJoCo renders on the first one that works, in all processes of a node. NVIDIA's driver tells which number CUDA
has for a device (EGL_NV_device_cuda); it is asked in a child process, as drivers may crash.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from instructrl.local_gpus import own_gpu

EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"  # a variable of mujoco.egl, which worker processes inherit
_QUERY_SECONDS = 30.0
_QUERY = """
import ctypes, json, os
os.environ["MUJOCO_GL"] = "disable"
from mujoco.egl import egl_ext
CUDA_DEVICE = 0x323A
address = egl_ext.eglGetProcAddress("eglQueryDeviceAttribEXT")
types = ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t)
query = ctypes.CFUNCTYPE(*types)(address)
numbers = []
for device in egl_ext.eglQueryDevicesEXT():
    number = ctypes.c_ssize_t(-1)
    known = query(device, CUDA_DEVICE, ctypes.byref(number)) and number.value >= 0
    numbers.append(number.value if known else None)
print(json.dumps(numbers), flush=True)
os._exit(0)
"""


def select_egl_device() -> bool:
    """Make MuJoCo render on the first GPU of this process.

    Returns False, and leaves the choice to MuJoCo, if a device is chosen already, if the environment tells of no GPU,
    or if EGL does not tell which device it is.
    """
    gpu = own_gpu()
    if EGL_DEVICE in os.environ or gpu is None:
        return False
    environ, number = dict(os.environ), gpu.number
    if "CUDA_VISIBLE_DEVICES" in environ and gpu.name.isdecimal():
        # Drivers differ in what they answer while it is set; without it, CUDA counts as it does
        number = int(gpu.name)
        del environ["CUDA_VISIBLE_DEVICES"]
    numbers = cuda_numbers(environ)
    if numbers.count(number) != 1:
        return False
    os.environ[EGL_DEVICE] = str(numbers.index(number))
    return True


def cuda_numbers(environ: Mapping[str, str]) -> list[int | None]:
    """CUDA's number of each EGL device in a process with this environment, None for others; empty if EGL fails."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _QUERY],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_QUERY_SECONDS,
            check=False,
            env=environ,
        )
        return list(json.loads(child.stdout)) if child.returncode == 0 else []
    except (subprocess.TimeoutExpired, ValueError):
        return []
