"""Every hook of medkit. A plugin implements one with ``@medkit.hookimpl``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from medkit.training.contract import Trainer

hookspec = pluggy.HookspecMarker("medkit")
hookimpl = pluggy.HookimplMarker("medkit")


@hookspec(firstresult=True)
def medkit_trainer() -> type[Trainer]:
    """Return the Trainer class of this plugin.

    The module that holds the implementation is named by an entry point of the group
    ``medkit.trainers.v1``; the entry's name is the trainer's name. The module must be light: it
    is imported when the user names the plugin, also for ``--help``.
    """
    raise NotImplementedError  # a specification; pluggy never calls it
