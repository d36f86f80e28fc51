"""Keras, or a sentence that says what to install."""

from __future__ import annotations

from typing import Any

from medkit.errors import TrainingError


def load_keras() -> Any:
    """Return the module.

    Raises
    ------
    TrainingError
        If it has no backend.
    """
    try:
        import keras
    except ImportError as error:
        raise TrainingError(
            f"Keras does not load ({error}); install medkit-inception[tensorflow], or JAX or "
            "PyTorch and set KERAS_BACKEND"
        ) from error
    return keras
