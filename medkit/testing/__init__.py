"""For tests: synthetic studies, and the conformance kit that every trainer has to pass.

    from medkit.testing import TrainerConformance

    class TestConformance(TrainerConformance):
        plugin = "mine"
        params = {"epochs": "2"}

What each check promises, and how to mend what it finds: ``docs/conformance.md``. Importing this
package does nothing: every name below is resolved when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medkit.testing.checks import CHECKS
    from medkit.testing.conformance import Finding, TrainerConformance, check_trainer
    from medkit.testing.studies import EXPLICIT_LITTLE, make_uid, write_cohort, write_dicom

_HOMES = {
    "CHECKS": "checks",
    "EXPLICIT_LITTLE": "studies",
    "Finding": "conformance",
    "TrainerConformance": "conformance",
    "check_trainer": "conformance",
    "make_uid": "studies",
    "write_cohort": "studies",
    "write_dicom": "studies",
}

__all__ = [
    "CHECKS",
    "EXPLICIT_LITTLE",
    "Finding",
    "TrainerConformance",
    "check_trainer",
    "make_uid",
    "write_cohort",
    "write_dicom",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medkit.testing' has no attribute {name!r}")
    return getattr(import_module(f"medkit.testing.{_HOMES[name]}"), name)
