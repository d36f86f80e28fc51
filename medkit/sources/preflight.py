"""What a user is told before anything is moved."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medkit.errors import SourceError
from medkit.sources.plans import Item, Plan

# In the words of licences: Creative Commons' NC, and what others write.
_NOT_FOR_TRADE = re.compile(
    r"\bNC\b|non-?\s?commercial|research (and|or) teaching|research (use )?only", re.IGNORECASE
)


def take_sample(plan: Plan, limit: int) -> Plan:
    """Return a plan of the first items of another: so many as fit, and one of unknown size.

    Parameters
    ----------
    plan : Plan
        Of a source.
    limit : int
        Bytes.

    Raises
    ------
    SourceError
        If its first item alone is larger.
    """

    def choose() -> Iterator[Item]:
        left = limit
        for number, item in enumerate(plan.items()):
            left -= item.size or limit
            if left < 0 and (item.size or number):
                return
            yield item

    sample = tuple(choose())
    if not sample and plan.location is None:
        raise SourceError(
            f"the first object of {plan.source.name} has more than {limit:,} bytes; allow more "
            "with --max-size"
        )
    facts = replace(plan.preflight, size=None)
    return replace(plan, items=lambda: sample, request=["sample", plan.request], preflight=facts)


def measure_room(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def warn(plan: Plan, free: int) -> list[str]:
    """Return what a user must know of a plan, a sentence each.

    Parameters
    ----------
    plan : Plan
        What would be brought.
    free : int
        Bytes of disk.
    """
    facts = plan.preflight
    found = [*facts.warnings]
    licences = facts.licences or {plan.source.licence: facts.series or facts.files or 1}
    narrow = sum(count for name, count in licences.items() if _NOT_FOR_TRADE.search(name))
    if narrow:
        share = "all of it" if narrow == sum(licences.values()) else f"{narrow:,} of its series"
        found.append(f"its licence allows no commercial use ({share})")
    if facts.lossy:
        found.append(f"{facts.lossy:.1%} of it was compressed with loss by its makers")
    if facts.size is None and plan.location is None:
        found.append("its size is not stated, and cannot be compared with the free disk")
    elif plan.location is None and (facts.size or 0) > free:
        found.append(f"it has {facts.size:,} bytes, and {free:,} are free")
    return found
