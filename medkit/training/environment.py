"""What a child process is started in: the device, the threads and Keras's backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from medkit.diagnosis import look_for_gpus
from medkit.engine import count_workers
from medkit.errors import UsageError
from medkit.plugins import find_plugin
from medkit.plugins.homes import Home
from medkit.plugins.standins import make_variables
from medkit.workspace import describe_versions

_BACKENDS = ("tensorflow", "jax", "torch")
_DEVICE = re.compile(r"auto|cpu|gpu(:\d+)?")
_CARD = re.compile(r"^GPU (\d+): (?P<card>.+) \(UUID: (\S+)\)", re.MULTILINE)
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
class Gpu:
    """A card, by its name, and how CUDA_VISIBLE_DEVICES names it."""

    number: str
    card: str


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
    gpus : tuple of Gpu
        That are used: each child sees one.
    note : str
        Why a card that is here is not used; empty if there is nothing to say.
    home : Home, optional
        The environment of an isolated trainer, which its child processes run in.
    """

    device: str
    threads: int
    backend: str
    gpus: tuple[Gpu, ...] = ()
    note: str = ""
    home: Home | None = None

    @property
    def python(self) -> str:
        """The interpreter of child processes."""
        return self.home.python if self.home else sys.executable

    def describe(self) -> dict[str, Any]:
        """Return what equal features and models need to have in common."""
        packages = ("numpy", "keras", self.backend)
        versions = describe_versions(*packages)
        if self.home:
            versions |= {name: self.home.version(name) for name in ("medkit", *packages)}
        # The platform's text has the kernel's version, which moves under a run that is resumed.
        del versions["platform"]
        names = ("device", "threads", "backend")
        return {**{name: getattr(self, name) for name in names}, "versions": versions}

    def variables(self, gpu: int = 0) -> dict[str, str]:
        """Return the variables that a child process starts with, on one of the GPUs if any."""
        return {
            **make_variables(self.home),
            **_DETERMINISTIC,
            **dict.fromkeys(_THREAD_COUNTS, str(self.threads)),
            **self._show_device(gpu),
            **({} if self.backend == "none" else {"KERAS_BACKEND": self.backend}),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

    def _show_device(self, gpu: int) -> dict[str, str]:
        if not self.gpus:
            return {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        return {
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "CUDA_VISIBLE_DEVICES": self.gpus[gpu].number,
            # CUDA counts by speed unless told otherwise, nvidia-smi by place.
            **({} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        }


def choose_environment(
    device: str = "auto",
    threads: int | None = None,
    backend: str | None = None,
    plugin: str | None = None,
) -> Environment:
    """Return the environment for what was asked; nothing heavy is imported here.

    A card counts if the backend can use it; it is asked, in a process of its own, where there is
    a card.

    Parameters
    ----------
    device : str
        ``"auto"`` for all GPUs, or the processors where there is none, ``"cpu"``, ``"gpu"`` for all
        GPUs, or ``"gpu:N"`` for one.
    threads : int, optional
        By default as many as there are processors.
    backend : str, optional
        By default ``KERAS_BACKEND``, or the first that is installed.
    plugin : str, optional
        The trainer that works in it: an isolated one has an environment of its own.

    Raises
    ------
    UsageError
        If the device is unknown, or a GPU is asked for and there is none that can be used.
    """
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"unknown device {device!r}; use auto, cpu, gpu or gpu:0")
    home = find_plugin("trainer", plugin).home if plugin else None
    backend = backend or _choose_backend(home)
    gpus, note = ((), "") if device == "cpu" else _choose_gpus(device, backend, home)
    if device == "auto":
        device = "gpu" if gpus else "cpu"
    return Environment(device, count_workers(threads), backend, gpus, note, home)


def _choose_backend(home: Home | None) -> str:
    is_there = home.has if home else find_spec
    installed = (name for name in _BACKENDS if is_there(name))
    return os.environ.get("KERAS_BACKEND") or next(installed, "none")


def _choose_gpus(asked: str, backend: str, home: Home | None) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs for a device that is not the processor, and why there are none."""
    gpus = _list_gpus()
    number = int(asked.partition(":")[2] or 0)
    if asked != "auto" and number >= len(gpus):
        raise UsageError(
            f"device {asked!r} was asked for, but there are {len(gpus)} GPUs here by nvidia-smi "
            "and CUDA_VISIBLE_DEVICES; use --device cpu or auto"
        )
    if not gpus:
        return (), ""
    seen, why = look_for_gpus(backend, *((home.python,) if home else ()))
    if not seen:
        note = f"{describe_cards(gpus)} is here, and {backend} cannot use it: {why}"
        if asked != "auto":
            raise UsageError(f"{note}; use --device cpu or auto")
        return (), f"{note}; training uses the processors"
    return tuple(gpus[number : number + 1] if ":" in asked else gpus), ""


def describe_cards(gpus: Sequence[Gpu]) -> str:
    """Return the names of cards for a person: equal ones are counted."""
    counts = Counter(gpu.card for gpu in gpus)
    return ", ".join(card if count == 1 else f"{count} x {card}" for card, count in counts.items())


def _list_gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs at hand."""
    names = _ask_driver()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not names:
        return [Gpu(name, card) for name, card in names.items() if name.isdigit()]
    shown = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [Gpu(name, names.get(name, name)) for name in shown]


def _ask_driver() -> dict[str, str]:
    """Return the name of each card that nvidia-smi lists, by its number and by its UUID."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    try:
        listed = subprocess.run(
            [command, "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        key: found["card"] for found in _CARD.finditer(listed.stdout) for key in found.group(1, 3)
    }
