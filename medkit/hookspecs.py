"""Every hook of medkit. A plugin implements one with ``@medkit.hookimpl``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from medkit.sources.descriptor import Plugged
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


@hookspec(firstresult=True)
def medkit_sources() -> Plugged:
    """Return the sources that this plugin adds: a folder of descriptors, and protocols.

    The module that holds the implementation is named by an entry point of the group
    ``medkit.sources.v1``; it is imported when the user says ``medkit fetch --plugin NAME``, where
    NAME is the entry's name, and at no other time.
    """
    raise NotImplementedError  # a specification; pluggy never calls it
