"""Versions of contracts: how what an older plugin gives becomes what this version asks for.

The version is the end of the entry point's group, ``medkit.trainers.v1``. `entries.KINDS` names the
groups that this version of medkit reads, the newest first. When a contract changes, its group gets
the next number, the one before stays in `KINDS` for one release, and has an adapter here. So a
plugin goes on to work while its author reads the changelog, and a plugin that keeps both contracts
works with medkit before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medkit.errors import PluginError
from medkit.plugins.entries import KINDS, Plugin

# By the older group: what its hook gives, as the next newer contract has it. Each group of `KINDS`
# but the newest of its kind has one.
ADAPTERS: dict[str, Callable[[Any], Any]] = {}


def lift(entry: Plugin, given: Any) -> Any:
    """Return what a plugin's hook gave, as the newest contract of its kind has it.

    Raises
    ------
    PluginError
        If the adapter fails, as it does where the plugin does not keep its own contract.
    """
    groups = KINDS[entry.kind].groups
    for group in reversed(groups[1 : groups.index(entry.group) + 1]):
        try:
            given = ADAPTERS[group](given)
        except Exception as error:
            raise PluginError(
                f"the plugin {entry.name!r} ({entry.origin}) does not keep the contract {group}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return given
