"""Installing, upgrading and uninstalling plugins, beside the core or isolated from it.

What is to be installed is first looked at, then resolved with the core's versions held as they
are, and only then installed: what does not fit is refused before anything has changed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.errors import MedkitError, PluginError, UsageError
from medkit.plugins.building import build_home, find_home, remove_home
from medkit.plugins.candidates import (
    Wanted,
    check_fit,
    check_names,
    constrain,
    inspect,
    list_core,
)
from medkit.plugins.entries import ISOLATED, Plugin, find_conflicts, list_plugins
from medkit.plugins.homes import Home, canonical
from medkit.plugins.installers import find_tool
from medkit.plugins.standins import introduce

_AT_ONCE = 4  # processes that import plugins, each of which may be large


class Installed(NamedTuple):
    """What was installed, or uninstalled.

    Attributes
    ----------
    distribution, version : str
        The distribution.
    plugins : tuple of str
        Its plugins, as ``trainer forest``.
    tool : str
        What did it: pip, uv, pipx.
    where : str
        ``"this environment"`` or ``"isolated"``.
    brought : dict of str to str
        The versions of what came with it.
    notes : tuple of str
        What the user should know.
    """

    distribution: str
    version: str
    plugins: tuple[str, ...]
    tool: str
    where: str
    brought: dict[str, str]
    notes: tuple[str, ...] = ()


def install(
    wanted: Wanted,
    *,
    isolated: bool = False,
    light: bool = False,
    upgrade: bool = False,
    arguments: Sequence[str] = (),
) -> Installed:
    """Install a distribution of plugins.

    Parameters
    ----------
    wanted : Wanted
        What, from `medkit.plugins.candidates.read_wanted`.
    isolated : bool
        Give it an environment of its own; of trainers only, which run in a process of their own.
    light : bool
        Isolated, with this environment's libraries beneath.
    upgrade : bool
        Bring the newest version, also where one is installed.
    arguments : sequence of str
        For pip or uv: where to look, and constraints.

    Raises
    ------
    PluginError
        If it cannot be had, is no plugin, claims a name that is taken, or does not fit beside the
        core; nothing is changed.
    """
    tool = find_tool()
    candidate = inspect(wanted, tool, arguments)
    check_names(candidate)
    _check_place(candidate.distribution, isolated)
    names = tuple(f"{plugin.kind} {plugin.name}" for plugin in candidate.plugins)
    facts = (candidate.distribution, candidate.version, names)
    if isolated:
        if not any(plugin.kind in ISOLATED for plugin in candidate.plugins):
            raise PluginError(
                f"{candidate.origin} has no trainer: only trainers run in a process of their own "
                "and can be isolated; install it without --isolated"
            )
        home, used = build_home(wanted, candidate, arguments, light)
        return Installed(*facts, used, "isolated", {}, _look_at(home))
    more = ("--upgrade",) if upgrade else ()
    changes = check_fit(wanted, candidate, tool, [*arguments, *more])
    with constrain() as constraints:
        note = tool.install([*constraints, *arguments, *more], wanted.arguments)
    importlib.invalidate_caches()
    changes.pop(canonical(candidate.distribution), None)
    return Installed(*facts, tool.name, "this environment", changes, tuple(filter(None, [note])))


def uninstall(name: str) -> Installed:
    """Uninstall the distribution of a plugin: by its own name, or the plugin's.

    Raises
    ------
    UsageError
        If no plugin and no distribution with one is named so.
    """
    plugin = find_installed(name)
    names = tuple(f"{one.kind} {one.name}" for one in _list_of(plugin.distribution))
    facts = (plugin.distribution, plugin.version, names)
    if plugin.home:
        remove_home(plugin.home)
        return Installed(*facts, "medkit", "isolated", {})
    if canonical(plugin.distribution) in list_core():
        raise UsageError(f"{plugin.distribution} is part of what medkit itself needs")
    tool = find_tool()
    tool.uninstall(plugin.distribution)
    note = "what it needed is left; others may need it"
    return Installed(*facts, tool.name, "this environment", {}, (note,))


def upgrade(names: Sequence[str], arguments: Sequence[str] = ()) -> list[Installed]:
    """Bring plugins to their newest version, each where it is; all of them if none is named.

    One that came from a folder or a URL is installed from there again. The environment of an
    isolated one is made anew, also for a medkit that has been upgraded.

    Raises
    ------
    PluginError
        After the others are done, if one could not be upgraded; it is as it was.
    """
    chosen = [find_installed(name) for name in names] if names else list_plugins()
    done, failed = [], []
    for plugin in {canonical(one.distribution): one for one in chosen}.values():
        try:
            done.append(_upgrade(plugin, arguments))
        except MedkitError as error:
            failed.append(f"{plugin.origin} is as it was: {error}")
    if failed:
        told = ", ".join(f"{one.distribution} {one.version}" for one in done) or "none"
        raise PluginError(f"{'; '.join(failed)}. Upgraded: {told}")
    return done


def _upgrade(plugin: Plugin, arguments: Sequence[str]) -> Installed:
    if home := plugin.home:
        wanted = Wanted(home.requirement, home.editable)
        return install(wanted, isolated=True, light=home.light, arguments=arguments)
    origin = find_origin(metadata.distribution(plugin.distribution))
    pinned = origin.text == f"{plugin.distribution}=={plugin.version}"
    wanted = Wanted(plugin.distribution) if pinned else origin
    return install(wanted, upgrade=True, arguments=arguments)


def find_installed(name: str) -> Plugin:
    """Return a plugin by its name or its distribution's.

    Raises
    ------
    UsageError
        If there is none, or several distributions have a plugin of that name.
    """
    every = list_plugins()
    found = [one for one in every if canonical(one.distribution) == canonical(name)]
    found = found or [one for one in every if one.name == name]
    places = {(canonical(one.distribution), one.home) for one in found}
    if len(places) > 1:
        told = "; ".join(find_conflicts(found)) or f"{name!r} is installed here and isolated"
        raise UsageError(f"{told}: give the name of the distribution")
    if not found:
        known = ", ".join(sorted({one.distribution for one in every})) or "none"
        raise UsageError(
            f"no plugin, and no distribution with one, is named {name!r}; installed: {known}"
        )
    return found[0]


def find_origin(distribution: metadata.Distribution) -> Wanted:
    """Return what brings a distribution back: its exact version, its URL, or its folder.

    By ``direct_url.json`` (PEP 610), which has no credentials.
    """
    name = distribution.metadata["Name"]
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = said.get("url", "")
    if "dir_info" in said:
        path = url2pathname(urlsplit(url).path)
        return Wanted(path, bool(said["dir_info"].get("editable")))
    if "vcs_info" in said:
        version = said["vcs_info"]
        return Wanted(f"{name} @ {version['vcs']}+{url}@{version['commit_id']}")
    if not url:
        return Wanted(f"{name}=={distribution.version}")
    hashes = said.get("archive_info", {}).get("hashes", {})
    return Wanted(f"{name} @ {url}" + (f"#sha256={hashes['sha256']}" if "sha256" in hashes else ""))


def check_plugins(plugins: Sequence[Plugin]) -> list[str]:
    """Return why each plugin does not work here; empty where it does.

    Each is imported in a process of its own, in its own environment.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_check_plugin, plugins))


def _check_plugin(plugin: Plugin) -> str:
    from medkit.plugins.standins import check_version

    if plugin.trouble:
        return plugin.trouble
    try:
        if plugin.home is None:
            return str(introduce(plugin).get("error", ""))
        check_version(plugin, plugin.home)
        return str(introduce(plugin, plugin.home.python).get("error", ""))
    except PluginError as error:
        return str(error)


def _look_at(home: Home) -> tuple[str, ...]:
    """Return what is wrong with the plugins of an environment that was just made."""
    made = [plugin for plugin in list_plugins() if plugin.home and plugin.home == home]
    return tuple(filter(None, check_plugins(made)))


def _check_place(distribution: str, isolated: bool) -> None:
    """Raise PluginError if a distribution is installed where it would hide, or be hidden."""
    name = canonical(distribution)
    here = [one for one in list_plugins() if canonical(one.distribution) == name and not one.home]
    if isolated and here:
        raise PluginError(
            f"{distribution} {here[0].version} is installed in this environment; uninstall it "
            "first, and then install it isolated"
        )
    if not isolated and find_home(name):
        raise PluginError(
            f"{distribution} is installed isolated; uninstall it first, or give --isolated"
        )


def _list_of(distribution: str) -> list[Plugin]:
    name = canonical(distribution)
    return [one for one in list_plugins() if canonical(one.distribution) == name]
