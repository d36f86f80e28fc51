"""The conformance kit's two faces: a function for programs, and a class for pytest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from medkit.errors import UsageError

if TYPE_CHECKING:
    from medkit.testing.trials import Trials

SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        Its name, as `docs/conformance.md` has it.
    passed : bool or None
        None where there was nothing to check: the trainer has no such part, or did not get so far.
    message : str
        What was found.
    """

    check: str
    passed: bool | None
    message: str


def check_trainer(
    name: str,
    params: Mapping[str, str] | None = None,
    *,
    only: Collection[str] = (),
    seconds: float = SECONDS,
    progress: Callable[[int, int, str], None] = lambda done, total, unit: None,
) -> list[Finding]:
    """Check that an installed trainer keeps what the host, and its users, rely on.

    All of it runs in child processes, as the host has it: a trainer that crashes, hangs or exits
    fails a check, and no more. Nothing of the user's is read or written.

    Parameters
    ----------
    name : str
        The trainer's, as given to ``--plugin``.
    params : mapping of str to str, optional
        Its options, as given to ``-p``. Small ones make the kit quick.
    only : collection of str, optional
        Names of checks; all by default.
    seconds : float
        That one fold may take.
    progress : callable
        Takes (done, total, unit).

    Returns
    -------
    list of Finding
        One a check, in the order of `CHECKS`.

    Raises
    ------
    UsageError
        If no trainer, or no check, has such a name.
    PluginError
        If two distributions claim the trainer's name.
    """
    from medkit.plugins import find_plugin
    from medkit.testing.checks import CHECKS

    find_plugin("trainer", name)
    if unknown := sorted(set(only) - set(CHECKS)):
        raise UsageError(f"no check is named {unknown[0]!r}; there are {', '.join(CHECKS)}")
    chosen = [check for check in CHECKS if not only or check in only]
    findings = []
    with tempfile.TemporaryDirectory(prefix="medkit-check-") as folder:
        trials = _open_trials(name, params or {}, folder, seconds)
        for done, check in enumerate(chosen):
            progress(done, len(chosen), "checks")
            findings.append(run_check(trials, check))
        progress(len(chosen), len(chosen), "checks")
    return findings


def run_check(trials: Trials, name: str) -> Finding:
    """Run one check on the trials of a trainer."""
    from medkit.testing.checks import CHECKS
    from medkit.testing.evidence import Broken, Unasked

    try:
        return Finding(name, True, CHECKS[name](trials))
    except Broken as found:
        return Finding(name, False, str(found))
    except Unasked as reason:
        return Finding(name, None, str(reason))


class TrainerConformance:
    """All checks as tests, one a check: a failure names what is broken.

    A subclass whose name begins with ``Test`` is collected by pytest.

    Attributes
    ----------
    plugin : str
        The name of the trainer, which is installed.
    params : mapping of str to str
        Its options, as given to ``-p``. Small ones make the tests quick.
    seconds : float
        That one fold may take.
    """

    plugin: ClassVar[str] = ""
    params: ClassVar[Mapping[str, str]] = {}
    seconds: ClassVar[float] = SECONDS
    _folder: ClassVar[Any] = None
    _trials: ClassVar[Any] = None

    @classmethod
    def setup_class(cls) -> None:
        """Make a folder to work in; what is done in it is done when a test asks for it."""
        if not cls.plugin:
            raise UsageError(f"{cls.__name__} checks no trainer; give it: plugin = 'NAME'")
        cls._folder = tempfile.TemporaryDirectory(prefix="medkit-check-")
        cls._trials = _open_trials(cls.plugin, cls.params, cls._folder.name, cls.seconds)

    @classmethod
    def teardown_class(cls) -> None:
        """Remove the folder."""
        cls._folder.cleanup()


def _open_trials(name: str, params: Mapping[str, str], folder: str, seconds: float) -> Trials:
    from medkit.testing.trials import Trials

    return Trials(name, params, Path(folder).resolve(), seconds)


def _make_test(name: str) -> Callable[[TrainerConformance], None]:
    def test(self: TrainerConformance) -> None:
        import pytest

        finding = run_check(self._trials, name)
        if finding.passed is None:
            pytest.skip(finding.message)
        if not finding.passed:
            pytest.fail(f"{name}: {finding.message}", pytrace=False)

    test.__doc__ = f"See {name!r} in docs/conformance.md."
    return test


# Spelled here and not read from `checks`, so that importing this module stays light; a test
# compares the two.
NAMES = (
    *("loading", "import", "options", "fitting", "shape", "finite", "probabilities"),
    *("class-order", "seed", "saving", "pickle", "single", "batches", "features", "input"),
    *("writing", "printing", "leaving", "resuming", "stopping", "lacking", "unchosen", "colour"),
    *("several", "memory", "maps"),
)

for _name in NAMES:
    setattr(TrainerConformance, f"test_{_name.replace('-', '_')}", _make_test(_name))
