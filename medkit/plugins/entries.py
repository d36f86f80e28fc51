"""What the metadata of installed distributions say of plugins; nothing of theirs is imported."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from medkit.errors import PluginError, UsageError
from medkit.plugins.homes import Home, canonical, list_homes


class Kind(NamedTuple):
    """A kind of plugin.

    Attributes
    ----------
    groups : tuple of str
        The groups of entry points that this version of medkit reads, the newest first.
    hook : str
        What the module of an entry implements.
    """

    groups: tuple[str, ...]
    hook: str


KINDS = {
    "trainer": Kind(("medkit.trainers.v1",), "medkit_trainer"),
    "source": Kind(("medkit.sources.v1",), "medkit_sources"),
    "reader": Kind(("medkit.readers.v1",), "medkit_reader"),
    "metric": Kind(("medkit.metrics.v1",), "medkit_metrics"),
    "section": Kind(("medkit.sections.v1",), "medkit_section"),
}
# Of plugins that run in a process of their own.
ISOLATED = ("trainer",)

_GROUP = re.compile(r"(medkit\.[a-z_]+)\.v(\d+)")
_KIND_OF = {group.rpartition(".")[0]: name for name, kind in KINDS.items() for group in kind.groups}


@dataclass(frozen=True)
class Plugin:
    """What the metadata of an installed distribution say of a plugin.

    Attributes
    ----------
    name : str
        Of the entry point: what the user types, as after ``--plugin``.
    distribution, version, summary : str
        Of the distribution that provides it.
    value : str
        The module that holds the hook, ``package.module``.
    kind : str
        A key of `KINDS`.
    group : str
        Of its entry point; ends with the version of the contract.
    home : Home, optional
        The environment of its own that it lies in; None if it lies in this one.
    """

    name: str
    distribution: str
    version: str
    summary: str
    value: str
    kind: str = "trainer"
    group: str = KINDS["trainer"].groups[0]
    home: Home | None = None

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}" + (", isolated" if self.home else "")

    @property
    def contract(self) -> int:
        """The version of the contract that it keeps."""
        return int(self.group.rpartition(".v")[2])

    @property
    def usable(self) -> bool:
        """Whether this version of medkit knows the contract."""
        return self.group in KINDS[self.kind].groups

    @property
    def trouble(self) -> str:
        """Why it cannot be used, as far as metadata tell; empty if they tell nothing."""
        if self.usable:
            return ""
        known = max(int(group.rpartition(".v")[2]) for group in KINDS[self.kind].groups)
        older, newer = "is for an older medkit: upgrade the plugin", "needs a newer medkit"
        return f"{newer if self.contract > known else older} ({self.group})"


def list_plugins(kind: str | None = None) -> list[Plugin]:
    """Return every installed plugin, here and isolated, by kind, name and distribution.

    Of a distribution that keeps several versions of a contract, the newest that is known here.

    Parameters
    ----------
    kind : str, optional
        A key of `KINDS`.
    """
    found: dict[tuple[str, str, str, str], Plugin] = {}
    for plugin in (*_list_here(), *_list_apart()):
        if kind in (None, plugin.kind):
            place = plugin.home.folder if plugin.home else ""
            key = (plugin.kind, plugin.name, canonical(plugin.distribution), place)
            # An editable install can be seen twice; the first one wins, as for import.
            if key not in found or _is_better(plugin, found[key]):
                found[key] = plugin
    return [found[key] for key in sorted(found)]


def read_plugins(distribution: metadata.Distribution, home: Home | None = None) -> Iterator[Plugin]:
    """Yield the plugins of one distribution."""
    for point in distribution.entry_points:
        match = _GROUP.fullmatch(point.group)
        if match and match[1] in _KIND_OF:
            about = distribution.metadata
            # Not .get: metadata is a message, whose type has none before Python 3.12.
            summary = about["Summary"] if "Summary" in about else ""  # noqa: SIM401
            facts = (about["Name"], distribution.version, summary, point.value)
            yield Plugin(point.name, *facts, _KIND_OF[match[1]], point.group, home)


def find_conflicts(entries: Sequence[Plugin]) -> list[str]:
    """Return a sentence for each name that more than one distribution claims."""
    claims: dict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for entry in entries:
        claims[entry.kind, entry.name].append(entry)
    return [_conflict(rivals) for _, rivals in sorted(claims.items()) if len(rivals) > 1]


def find_plugin(kind: str, name: str) -> Plugin:
    """Return the one plugin of that kind and name.

    Raises
    ------
    UsageError
        If no distribution provides it.
    PluginError
        If more than one does, or it keeps a contract that is not known here.
    """
    entries = list_plugins(kind)
    named = [entry for entry in entries if entry.name == name]
    if len(named) > 1:
        raise PluginError(_conflict(named))
    if not named:
        installed = ", ".join(sorted({entry.name for entry in entries})) or "none"
        raise UsageError(
            f"no {kind} plugin is named {name!r}; installed: {installed}. "
            "Install one with 'medkit plugins install', then see 'medkit plugins list'."
        )
    if named[0].trouble:
        raise PluginError(f"the {kind} {name!r} ({named[0].origin}) {named[0].trouble}")
    return named[0]


def _list_here() -> Iterator[Plugin]:
    for distribution in metadata.distributions():
        yield from read_plugins(distribution)


def _list_apart() -> Iterator[Plugin]:
    for home in list_homes():
        distribution = home.find(home.distribution)
        for plugin in read_plugins(distribution, home) if distribution else ():
            if plugin.kind in ISOLATED:
                yield plugin


def _is_better(one: Plugin, other: Plugin) -> bool:
    """Tell whether one entry of the same distribution is of a contract to prefer."""
    if one.value == other.value and one.group == other.group:
        return False
    return (one.usable, one.contract) > (other.usable, other.contract)


def _conflict(rivals: Sequence[Plugin]) -> str:
    claimants = " and ".join(entry.origin for entry in rivals)
    named = f"the {rivals[0].kind} name {rivals[0].name!r}"
    return f"{named} is claimed by {claimants}; uninstall all but one"
