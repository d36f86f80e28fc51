"""Finding and loading plugins: the only user of pluggy's PluginManager.

Listing reads the metadata of installed distributions and imports nothing of theirs. Loading
imports the one plugin that was named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from medkit.errors import PluginError, UsageError

if TYPE_CHECKING:
    from medkit.sources.descriptor import Plugged
    from medkit.training.contract import Trainer

GROUP = "medkit.trainers.v1"
SOURCES = "medkit.sources.v1"
_KINDS = {GROUP: "trainer", SOURCES: "source"}


@dataclass(frozen=True)
class TrainerEntry:
    """What the metadata of an installed distribution say of a trainer.

    Attributes
    ----------
    name : str
        The trainer's name, as given to ``--plugin``.
    distribution, version, summary : str
        Of the distribution that provides it.
    value : str
        The module that holds the hook, ``package.module``.
    """

    name: str
    distribution: str
    version: str
    summary: str
    value: str

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}"


def list_trainers(group: str = GROUP) -> list[TrainerEntry]:
    """Return every installed trainer, by name then distribution; nothing of theirs is imported.

    Of another group of entry points, its plugins.
    """
    found: dict[tuple[str, str], TrainerEntry] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group == group:
                entry = _entry(point, distribution)
                # An editable install can be seen twice; the first one wins, as for import.
                found.setdefault((entry.name, _canonical(entry.distribution)), entry)
    return [found[key] for key in sorted(found)]


def find_conflicts(entries: list[TrainerEntry]) -> list[str]:
    """Return a sentence for each name that more than one distribution claims."""
    claims: dict[str, list[TrainerEntry]] = defaultdict(list)
    for entry in entries:
        claims[entry.name].append(entry)
    return [_conflict(name, rivals) for name, rivals in sorted(claims.items()) if len(rivals) > 1]


def find_trainer(name: str, group: str = GROUP) -> TrainerEntry:
    """Return the one entry of that name in a group of entry points.

    Raises
    ------
    UsageError
        If no distribution provides it.
    PluginError
        If more than one does.
    """
    entries = list_trainers(group)
    named = [entry for entry in entries if entry.name == name]
    if len(named) > 1:
        raise PluginError(_conflict(name, named, group))
    if not named:
        installed = ", ".join(sorted({entry.name for entry in entries})) or "none"
        raise UsageError(
            f"no {_KINDS[group]} plugin is named {name!r}; installed: {installed}. "
            "Install one with pip, then see 'medkit plugins list'."
        )
    return named[0]


def load_trainer(name: str) -> type[Trainer]:
    """Import the plugin of that name, and no other, and return its Trainer class.

    Raises
    ------
    UsageError
        If no plugin has that name.
    PluginError
        If the plugin cannot be imported, implements a hook that does not exist, or
        returns something that is not a Trainer. The message names distribution and version.
    """
    entry = find_trainer(name)
    trainer = _call_hook(entry, GROUP, "medkit_trainer")
    missing = [part for part in _required(trainer) if not hasattr(trainer, part)]
    if missing:
        raise PluginError(
            f"the plugin {name!r} ({entry.origin}) is not a trainer: it gave {trainer!r}, "
            f"which lacks {', '.join(missing)}"
        )
    return trainer  # type: ignore[no-any-return]


def load_sources(name: str) -> Plugged:
    """Import the plugin of that name, and no other, and return what sources it adds.

    Parameters
    ----------
    name : str
        Of an entry point of the group ``medkit.sources.v1``.

    Raises
    ------
    UsageError
        If no plugin has that name.
    PluginError
        If the plugin cannot be imported, or returns something else.
    """
    entry = find_trainer(name, SOURCES)
    plugged: Plugged = _call_hook(entry, SOURCES, "medkit_sources")
    if not (hasattr(plugged, "folder") and hasattr(plugged, "protocols")):
        raise PluginError(
            f"the plugin {name!r} ({entry.origin}) adds no sources: it gave {plugged!r}, "
            "and medkit.sources.descriptor.Plugged is wanted"
        )
    return plugged


def _call_hook(entry: TrainerEntry, group: str, hook: str) -> Any:
    import pluggy

    from medkit import hookspecs

    try:
        manager = pluggy.PluginManager("medkit")
        manager.add_hookspecs(hookspecs)
        manager.load_setuptools_entrypoints(group, name=entry.name)
        manager.check_pending()
        return getattr(manager.hook, hook)()
    except Exception as error:  # whatever a plugin raises while it loads is the plugin's fault
        raise PluginError(
            f"the plugin {entry.name!r} ({entry.origin}) does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def _required(trainer: Any) -> tuple[str, ...]:
    common = ("Params", "tasks")
    own = ("features", "feature_spec") if getattr(trainer, "head", "") else ("fit", "load")
    return (*common, *own)


def _entry(point: metadata.EntryPoint, distribution: metadata.Distribution) -> TrainerEntry:
    about = distribution.metadata
    # Not .get: metadata is a message, whose type has none before Python 3.12.
    summary = about["Summary"] if "Summary" in about else ""  # noqa: SIM401
    return TrainerEntry(point.name, about["Name"], distribution.version, summary, point.value)


def _canonical(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _conflict(name: str, rivals: list[TrainerEntry], group: str = GROUP) -> str:
    claimants = " and ".join(entry.origin for entry in rivals)
    return f"the {_KINDS[group]} name {name!r} is claimed by {claimants}; uninstall all but one"
