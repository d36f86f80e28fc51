"""What a child process is started in: the device, the threads and Keras's backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from medkit.engine import count_workers
from medkit.errors import UsageError
from medkit.workspace import describe_versions

_BACKENDS = ("tensorflow", "jax", "torch")
_DEVICE = re.compile(r"auto|cpu|gpu(:\d+)?")
_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
# What makes equal input give equal bytes in each of the backends.
_DETERMINISTIC = {
    "PYTHONHASHSEED": "0",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_CUDNN_DETERMINISTIC": "1",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # on and off round differently; on is twice as fast
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


@dataclass(frozen=True)
class Environment:
    """Where fits happen; part of what identifies a run.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"gpu"`` or ``"gpu:N"``.
    threads : int
        Pinned for every library that has threads.
    backend : str
        Keras's, or ``"none"`` where no backend is installed.
    """

    device: str
    threads: int
    backend: str

    def describe(self) -> dict[str, Any]:
        """Return what equal features and models need to have in common."""
        versions = describe_versions("numpy", "scikit-learn", "keras", self.backend)
        # The platform's text has the kernel's version, which moves under a run that is resumed.
        del versions["platform"]
        return {**asdict(self), "versions": versions}

    def variables(self) -> dict[str, str]:
        """Return the variables that a child process starts with."""
        return {
            **os.environ,
            **_DETERMINISTIC,
            **dict.fromkeys(_THREAD_COUNTS, str(self.threads)),
            **_show_devices(self.device),
            **({} if self.backend == "none" else {"KERAS_BACKEND": self.backend}),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # The child finds the plugins that this process found, and with -P nothing else: the
            # folder one stands in may hold raw data, and a file there named like a module.
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # noqa: PTH109
        }


def choose_environment(device: str = "auto", threads: int | None = None) -> Environment:
    """Return the environment for what was asked; nothing heavy is imported.

    Raises
    ------
    UsageError
        If the device is unknown, or a GPU is asked for and there is none.
    """
    return Environment(_choose_device(device), count_workers(threads), _choose_backend())


def _choose_backend() -> str:
    installed = (name for name in _BACKENDS if find_spec(name))
    return os.environ.get("KERAS_BACKEND") or next(installed, "none")


def _choose_device(asked: str) -> str:
    if not _DEVICE.fullmatch(asked):
        raise UsageError(f"unknown device {asked!r}; use auto, cpu, gpu or gpu:0")
    if asked == "cpu":
        return asked
    gpus = _list_gpus()
    if asked == "auto":
        return "gpu" if gpus else "cpu"
    if _number(asked) >= len(gpus):
        raise UsageError(
            f"device {asked!r} was asked for, but there are {len(gpus)} GPUs here by nvidia-smi "
            "and CUDA_VISIBLE_DEVICES; use --device cpu or auto"
        )
    return asked


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _list_gpus() -> list[str]:
    """Return the NVIDIA GPUs at hand, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [str(number) for number in range(_count_gpus())]
    if chosen is None or not found:
        return found
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]


def _count_gpus() -> int:
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listed = subprocess.run(
            [command, "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _show_devices(device: str) -> dict[str, str]:
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    shown = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if ":" in device:
        shown["CUDA_VISIBLE_DEVICES"] = _list_gpus()[_number(device)]
        # CUDA counts by speed unless told otherwise, nvidia-smi by place.
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            shown["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return shown
