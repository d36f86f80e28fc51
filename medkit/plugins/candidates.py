"""A distribution that is to be installed: what it is, and whether it fits beside the core."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from medkit.errors import PluginError, UsageError
from medkit.plugins.entries import KINDS, Plugin, list_plugins, read_plugins
from medkit.plugins.homes import canonical
from medkit.plugins.installers import Tool

CORE = "medkit"
_CONFLICT = re.compile("conflict|incompatible|unsatisfiable", re.IGNORECASE)
_URL = re.compile(r"(git|hg|svn|bzr)\+|https?://|file://")
_PATH = re.compile(r"^\.|[\\/]|\.(whl|zip|tar\.gz)$")  # what pip takes for one


@dataclass(frozen=True)
class Wanted:
    """What a user wants installed.

    Attributes
    ----------
    text : str
        A name with or without a version, the absolute path of a folder or a wheel, or a URL.
    editable : bool
        Whether the code is to be read from where it is written.
    """

    text: str
    editable: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """As pip and uv take it."""
        return ("-e", self.text) if self.editable else (self.text,)

    @property
    def shown(self) -> str:
        """The text without the credentials of a URL."""
        return re.sub(r"(://)[^/@]+@", r"\1", self.text)


class Candidate(NamedTuple):
    """A distribution that is not installed yet, and its plugins."""

    distribution: str
    version: str
    plugins: Sequence[Plugin]

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}"


def read_wanted(text: str, editable: bool = False) -> Wanted:
    """Return what a user wants, from what was typed.

    Raises
    ------
    UsageError
        If there is no such file or folder, or it is no requirement.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if not editable and _URL.match(text):
        return Wanted(text)
    if editable or (" @ " not in text and _PATH.search(text)):
        return Wanted(_find_path(text, editable), editable)
    try:
        Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(
            f"{text!r} is no requirement ({str(error).splitlines()[0]}); give the name of a "
            "distribution, a folder such as ./medkit-mine, a wheel, or a URL"
        ) from None
    return Wanted(text)


def inspect(wanted: Wanted, tool: Tool, arguments: Sequence[str]) -> Candidate:
    """Return what a distribution is, by its metadata; it is brought to a folder that is removed.

    Raises
    ------
    PluginError
        If it cannot be had, or has no plugin of medkit.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            tool.install_aside(Path(folder), arguments, wanted.text)
        except PluginError as error:
            raise PluginError(f"{wanted.shown} cannot be had: {error}{_hint(wanted)}") from None
        (found,) = metadata.distributions(path=[folder])
        candidate = Candidate(found.metadata["Name"], found.version, list(read_plugins(found)))
    if not candidate.plugins:
        groups = ", ".join(kind.groups[0] for kind in KINDS.values())
        raise PluginError(
            f"{candidate.origin} has no plugin of medkit and is not installed; a plugin has an "
            f"entry point in one of {groups}"
        )
    if all(plugin.trouble for plugin in candidate.plugins):
        raise PluginError(f"{candidate.origin} {candidate.plugins[0].trouble}; not installed")
    return candidate


def check_names(candidate: Candidate) -> None:
    """Raise PluginError if another distribution has a plugin of the same kind and name."""
    taken = {(one.kind, one.name): one for one in list_plugins()}
    for plugin in candidate.plugins:
        other = taken.get((plugin.kind, plugin.name))
        if other and canonical(other.distribution) != canonical(candidate.distribution):
            raise PluginError(
                f"{candidate.origin} has a {plugin.kind} {plugin.name!r}, and so has "
                f"{other.origin}, which is installed; uninstall that first"
            )


def check_fit(
    wanted: Wanted, candidate: Candidate, tool: Tool, arguments: Sequence[str]
) -> dict[str, str]:
    """Return what an install beside the core would bring; nothing is installed.

    Raises
    ------
    PluginError
        If it needs other versions of what the core needs, or what it brings breaks another.
    """
    with constrain() as constraints:
        try:
            changes = tool.resolve([*constraints, *arguments, *wanted.arguments])
        except PluginError as error:
            advice = f". {_ADVICE}" if _CONFLICT.search(str(error)) else _hint(wanted)
            raise PluginError(
                f"{candidate.origin} does not fit beside medkit {metadata.version(CORE)}, and "
                f"is not installed: {error}{advice}"
            ) from None
    if broken := find_broken(changes):
        raise PluginError(
            f"{candidate.origin} is not installed, for it would break what is: "
            f"{'; '.join(broken)}. {_ADVICE}"
        )
    return changes


_ADVICE = "With --isolated it gets an environment of its own"


@contextmanager
def constrain() -> Iterator[tuple[str, ...]]:
    """Yield the arguments that keep the core, and all that it needs, as it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "core.txt"
        pins = sorted(f"{name}=={version}" for name, version in list_core().items())
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        yield ("--constraint", str(file))


def list_core() -> dict[str, str]:
    """Return the installed version of the core and of all that it needs, by name."""
    found: dict[str, str] = {}
    waiting = [CORE]
    while waiting:
        name = canonical(waiting.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # stated and not installed: nothing of it can be broken
        found[name] = distribution.version
        waiting += [needed for needed, _ in _list_needs(distribution)]
    if not found:
        raise PluginError("medkit runs from its folder; install it, and plugins can be installed")
    return found


def find_broken(changes: Mapping[str, str]) -> list[str]:
    """Return a sentence for each installed distribution that new versions would break."""
    broken = []
    for distribution in metadata.distributions():
        if canonical(distribution.metadata["Name"]) in changes:
            continue
        for name, specifier in _list_needs(distribution):
            new = changes.get(canonical(name))
            if new and not _allows(specifier, new) and _holds_now(name, specifier):
                origin = f"{distribution.metadata['Name']} {distribution.version}"
                broken.append(f"{origin} needs {name}{specifier}, and {new} would come")
    return broken


def _list_needs(distribution: metadata.Distribution) -> Iterator[tuple[str, str]]:
    from packaging.requirements import InvalidRequirement, Requirement

    for text in distribution.requires or ():
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield needed.name, str(needed.specifier)


def _allows(specifier: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _holds_now(name: str, specifier: str) -> bool:
    try:
        return _allows(specifier, metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _find_path(text: str, editable: bool) -> str:
    path = Path(text).expanduser().absolute()
    wanted = path.is_dir() if editable else path.exists()
    if not wanted:
        raise UsageError(f"there is no {'folder' if editable else 'file or folder'} {path}")
    if path.is_dir() and not any((path / one).exists() for one in ("pyproject.toml", "setup.py")):
        raise UsageError(f"{path} holds no distribution: it has no pyproject.toml")
    return str(path)


def _hint(wanted: Wanted) -> str:
    if not wanted.editable and Path(wanted.text).name == wanted.text and Path(wanted.text).is_dir():
        return f". There is a folder of that name: say ./{wanted.text}"
    return ""
