"""Volumes without a header, such as phantoms: a source's descriptor says how to read them.

Their format is ``raw``. Nothing is guessed: a file that a rule names must have the size of one of
the shapes that the rule allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from medkit.catalog.entries import Entries
from medkit.catalog.findings import Finding, UnreadableFileError
from medkit.catalog.stacks import Stack, describe_stack
from medkit.sources.descriptor import RawRule

_ORDERS = {"little": "<", "big": ">", "": "|"}


def add_raw(entries: Entries, rules: Sequence[RawRule]) -> Entries:
    """Return files with what the rules of their source say of them; they are not opened then."""
    if not rules:
        return entries
    described = {
        row: finding
        for row, (path, size) in enumerate(zip(entries.paths, entries.sizes, strict=True))
        if (finding := describe_raw(path, int(size), rules)) is not None
    }
    return dataclasses.replace(entries, findings=described | dict(entries.findings))


def describe_raw(path: str, size: int, rules: Sequence[RawRule]) -> Finding | None:
    """Return what the rules of a source say of a file, which need not be opened.

    Parameters
    ----------
    path : str
        Relative to the root, with ``/``.
    size : int
        Bytes.
    rules : sequence of RawRule
        Of the source's descriptor.

    Returns
    -------
    Finding or None
        None where no rule is for it; a problem, ``raw-size``, where rules are, and not exactly one
        of their shapes has its size.
    """
    wanted = [rule for rule in rules if fnmatchcase(path, rule.files)]
    if not wanted:
        return None
    fitting = [stack for stack in _list_stacks(wanted) if stack.offset + stack.length == size]
    if len(fitting) != 1:
        detail = f"{len(fitting)} of the shapes described have its {size} bytes"
        return UnreadableFileError("raw-size", detail).to_finding()
    return describe_stack(fitting[0], "raw", size)


def _list_stacks(rules: Sequence[RawRule]) -> Iterator[Stack]:
    for rule in rules:
        steps = None
        if rule.orientation:
            across, down = np.array(rule.orientation, dtype=np.float64).reshape(2, 3)
            directions = np.stack([across, down, np.cross(across, down)])
            steps = directions * np.array(rule.spacing)[:, np.newaxis]
        for shape in rule.shapes:
            yield Stack(
                shape=shape,
                kind=np.dtype(_ORDERS[rule.byte_order] + np.dtype(rule.dtype).str[1:]),
                spacing=rule.spacing[:2],
                steps=steps,
                origin=None if steps is None else np.zeros(3),
                offset=rule.offset or 0,
            )
