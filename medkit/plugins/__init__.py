"""Plugins: found by metadata, loaded one at a time, installed beside the core or apart from it.

Listing imports nothing of theirs. What is behind the verbs of ``medkit plugins`` is in
`medkit.plugins.management` and `medkit.plugins.freezing`.
"""

from medkit.plugins.entries import (
    KINDS,
    Plugin,
    find_conflicts,
    find_plugin,
    list_plugins,
)
from medkit.plugins.loading import load_plugin, load_trainer

__all__ = [
    "KINDS",
    "Plugin",
    "find_conflicts",
    "find_plugin",
    "list_plugins",
    "load_plugin",
    "load_trainer",
]
