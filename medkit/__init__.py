"""From a pile of DICOM to a number you can trust.

Importing this package does nothing: every public name below is resolved when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Catalog": "medkit.catalog.store",
    "Folds": "medkit.cohort.folds",
    "ImageSet": "medkit.images.imageset",
    "Images": "medkit.images.reader",
    "LabelledImages": "medkit.training.contract",
    "MedkitError": "medkit.errors",
    "Model": "medkit.training.contract",
    "Recipe": "medkit.images.normalisation",
    "RunContext": "medkit.training.contract",
    "Trainer": "medkit.training.contract",
    "Workspace": "medkit.workspace",
    "hookimpl": "medkit.hookspecs",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
