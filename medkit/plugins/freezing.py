"""A file that brings the same plugins back: what ``freeze`` writes and ``sync`` reads.

It is TOML, a table a distribution. What came from a folder or a URL is said to: such a line is
worth what stands there when it is read.
"""

from __future__ import annotations

import json
import platform
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from medkit.errors import MedkitError, UsageError
from medkit.plugins.building import list_pins
from medkit.plugins.candidates import Wanted
from medkit.plugins.entries import Plugin, list_plugins
from medkit.plugins.homes import canonical
from medkit.plugins.management import find_origin, install, uninstall

_FORM = 1
_HEAD = "# Plugins of medkit: 'medkit plugins sync' with this file brings them back.\n"
_LOCAL = "from where it lies: a folder is worth what stands in it when this is read"


class Step(NamedTuple):
    """What was done about one distribution.

    Attributes
    ----------
    distribution, version : str
        As the file has them; of what is not in the file, as installed.
    done : str
        ``"there"``, ``"installed"``, ``"removed"``, ``"not in the file"`` or ``"failed"``.
    detail : str
        Why it failed; else mostly empty.
    """

    distribution: str
    version: str
    done: str
    detail: str = ""


def freeze() -> str:
    """Return the file for the plugins that are installed, here and isolated."""
    from medkit import __version__

    head = {"form": _FORM, "medkit": __version__, "python": platform.python_version()}
    tables = [_write_table(head)]
    tables += [f"[[plugin]]\n{_write_table(one)}" for one in _describe_all()]
    return _HEAD + "\n" + "\n".join(tables)


def sync(file: Path, *, prune: bool = False, arguments: Sequence[str] = ()) -> list[Step]:
    """Install what a file of `freeze` has and is not here; one that fails leaves the others.

    Parameters
    ----------
    file : Path
        As `freeze` wrote it.
    prune : bool
        Uninstall plugins that the file does not have; without, they are told.
    arguments : sequence of str
        For pip or uv: where to look.

    Raises
    ------
    UsageError
        If it is no such file.
    """
    wanted = _read(file)
    steps = [_bring(one, arguments) for one in wanted]
    kept = {canonical(one["distribution"]) for one in wanted}
    for plugin in _list_distributions():
        if canonical(plugin.distribution) not in kept:
            if prune:
                uninstall(plugin.distribution)
            done = "removed" if prune else "not in the file"
            steps.append(Step(plugin.distribution, plugin.version, done))
    return steps


def _describe_all() -> list[dict[str, Any]]:
    described = []
    for plugin in _list_distributions():
        home = plugin.home
        found = home.find(plugin.distribution) if home else None
        origin = find_origin(found or metadata.distribution(plugin.distribution))
        one = {
            "distribution": plugin.distribution,
            "version": plugin.version,
            "requirement": origin.text,
            "editable": origin.editable,
            "isolated": home is not None,
        }
        pins = {"light": home.light, "pins": list_pins(home)} if home else {}
        local = {} if "==" in origin.text else {"note": _LOCAL}
        described.append(one | pins | local)
    return described


def _list_distributions() -> list[Plugin]:
    """Return one plugin of each distribution."""
    found = {(canonical(one.distribution), one.home): one for one in list_plugins()}
    return sorted(found.values(), key=lambda one: canonical(one.distribution))


def _bring(one: Mapping[str, Any], arguments: Sequence[str]) -> Step:
    name, version = one["distribution"], one["version"]
    if _is_there(one):
        return Step(name, version, "there")
    wanted = Wanted(one["requirement"], one["editable"])
    try:
        with _constrain(one) as constraints:
            done = install(
                wanted,
                isolated=one["isolated"],
                light=one.get("light", False),
                arguments=[*arguments, *constraints],
            )
    except MedkitError as error:
        return Step(name, version, "failed", str(error))
    if done.version != version:
        told = f"{one['requirement']} is {done.version} now, and was {version}"
        return Step(name, version, "failed", f"{told}; it is installed as it is")
    return Step(name, version, "installed", "; ".join(done.notes))


def _is_there(one: Mapping[str, Any]) -> bool:
    name = canonical(one["distribution"])
    return any(
        canonical(plugin.distribution) == name
        and plugin.version == one["version"]
        and (plugin.home is not None) == one["isolated"]
        for plugin in list_plugins()
    )


@contextmanager
def _constrain(one: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the arguments that hold an isolated environment to the versions it had."""
    own = canonical(one["distribution"])
    pins = [pin for pin in one.get("pins", ()) if canonical(pin.partition("==")[0]) != own]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        yield ("--constraint", str(file)) if pins else ()


def _write_table(facts: Mapping[str, Any]) -> str:
    # A JSON text, list of texts, number or boolean is spelled as TOML spells it.
    spelled = {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}
    return "".join(f"{name} = {value}\n" for name, value in spelled.items())


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
        wanted = said.get("plugin", [])
        if said["form"] != _FORM:
            raise UsageError(f"{file} is of form {said['form']}, and this medkit reads {_FORM}")
        for one in wanted:
            _check_table(one)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is not what 'medkit plugins freeze' writes: {error}") from None
    return list(wanted)


def _check_table(one: Mapping[str, Any]) -> None:
    for name, kind in _TYPES.items():
        if not isinstance(one[name], kind):
            raise ValueError(f"{name} is {one[name]!r}")
    if one["requirement"].startswith("-"):
        raise ValueError(f"{one['requirement']!r} is no requirement")


_TYPES = {
    **{"distribution": str, "version": str, "requirement": str},
    **{"editable": bool, "isolated": bool},
}
