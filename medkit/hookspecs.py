"""Every hook of medkit. A plugin implements one with ``@medkit.hookimpl``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medkit.catalog.readers import FormatReader
    from medkit.evaluation.sections import SectionWriter
    from medkit.sources.descriptor import Plugged
    from medkit.statistics.plugged import Metric
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


@hookspec(firstresult=True)
def medkit_reader() -> FormatReader:
    """Return what reads a file format: an object, or a module, with ``recognise`` and ``open``.

    The module that holds the implementation is named by an entry point of the group
    ``medkit.readers.v1``; the entry's name is the format's name in the catalog. It is imported
    when the user says ``medkit catalog --reader NAME``, and where files of such a catalog are
    read.
    """
    raise NotImplementedError  # a specification; pluggy never calls it


@hookspec(firstresult=True)
def medkit_metrics() -> Sequence[Metric]:
    """Return the metrics that this plugin adds.

    The module that holds the implementation is named by an entry point of the group
    ``medkit.metrics.v1``; it is imported when the user says ``--metrics NAME``, and where a run
    so started is measured.
    """
    raise NotImplementedError  # a specification; pluggy never calls it


@hookspec(firstresult=True)
def medkit_section() -> SectionWriter:
    """Return what writes a section of a run's report: a function of `RunData`.

    The module that holds the implementation is named by an entry point of the group
    ``medkit.sections.v1``; it is imported when the user says ``medkit report --section NAME``.
    The function gets copies of the run's record, metrics and predictions, and where its folder
    is. It returns a title, and a list of paragraphs, tables and figures.
    """
    raise NotImplementedError  # a specification; pluggy never calls it
