"""Keras and the GPU under it: what there is, how precisely it computes, when it is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medkit.errors import TrainingError

# Keras's names of the policies; weights and the last layer are float32 under each.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
PRECISIONS = ("auto", *_POLICIES)
# From NVIDIA's Ampere on, bfloat16 is as fast as float16 and needs no scaling of the loss.
_HAS_BFLOAT16 = (8, 0)
# What the backends raise; JAX has one class for all errors, which its message tells apart.
_FULL = ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError")
_FULL_WORDS = ("RESOURCE_EXHAUSTED", "out of memory")
_MAY_BE_FULL = ("RuntimeError", "InternalError", "XlaRuntimeError", "JaxRuntimeError")


@dataclass(frozen=True)
class Gpu:
    """The GPU that computes.

    Attributes
    ----------
    name : str
        The maker's.
    capability : tuple of int
        NVIDIA's compute capability; (0, 0) of another maker.
    """

    name: str
    capability: tuple[int, int]


def load_keras() -> Any:
    """Return the module.

    Raises
    ------
    TrainingError
        If it, or its backend, is not installed.
    """
    try:
        import keras
    except ImportError as error:
        raise TrainingError(
            f"Keras does not load ({error}); install a trainer with its extra, such as "
            "medkit-cnn[tensorflow], or JAX or PyTorch and set KERAS_BACKEND"
        ) from error
    keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
    return keras


def find_gpu() -> Gpu | None:
    """Return the first GPU that Keras's backend can use, by that backend's own word."""
    finder = _FINDERS.get(load_keras().backend.backend())
    return finder() if finder else None


def choose_policy(precision: str, gpu: Gpu | None) -> str:
    """Return the name of Keras's dtype policy for a precision of `PRECISIONS`.

    ``"auto"`` is mixed bfloat16 where the GPU has it, mixed float16 on another GPU, which needs
    the loss to be scaled, and float32 on a CPU.

    Raises
    ------
    TrainingError
        If there is no such precision.
    """
    if precision == "auto":
        if gpu is None or gpu.capability == (0, 0):
            precision = "float32"
        else:
            precision = "bfloat16" if gpu.capability >= _HAS_BFLOAT16 else "float16"
    if precision not in _POLICIES:
        raise TrainingError(f"precision={precision!r}: give one of {', '.join(PRECISIONS)}")
    return _POLICIES[precision]


@contextmanager
def use_policy(policy: str) -> Iterator[None]:
    """Have the layers that are made meanwhile compute by a dtype policy."""
    config = load_keras().config
    before = config.dtype_policy()
    config.set_dtype_policy(policy)
    try:
        yield
    finally:
        config.set_dtype_policy(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a backend raised this because memory, mostly the GPU's, is full."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names.intersection(_FULL):
        return True
    text = str(error)
    return bool(names.intersection(_MAY_BE_FULL)) and any(word in text for word in _FULL_WORDS)


def _find_tensorflow() -> Gpu | None:
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU")[:1]:
        facts = tf.config.experimental.get_device_details(device)
        return Gpu(
            facts.get("device_name", "an unnamed GPU"), facts.get("compute_capability", (0, 0))
        )
    return None


def _find_torch() -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return Gpu(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))


def _find_jax() -> Gpu | None:
    import jax

    device = jax.devices()[0]
    if device.platform not in ("gpu", "cuda", "rocm"):
        return None
    major, _, minor = str(getattr(device, "compute_capability", "0.0")).partition(".")
    numbers = major.isdecimal() and minor.isdecimal()
    return Gpu(device.device_kind, (int(major), int(minor)) if numbers else (0, 0))


_FINDERS: dict[str, Callable[[], Gpu | None]] = {
    "tensorflow": _find_tensorflow,
    "torch": _find_torch,
    "jax": _find_jax,
}
