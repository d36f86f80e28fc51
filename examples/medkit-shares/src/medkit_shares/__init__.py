"""Sources for ``medkit fetch``: sets on a network share, each with a file ``SHA256SUMS``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import medkit

if TYPE_CHECKING:
    from medkit.sources.descriptor import Descriptor, Plugged
    from medkit.sources.plans import Plan

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@medkit.hookimpl
def medkit_sources() -> Plugged:
    """Return what this plugin adds."""
    from medkit.sources.descriptor import Plugged

    return Plugged(Path(__file__).parent / "catalogs", {"share": plan})


def plan(descriptor: Descriptor) -> Plan:
    """Plan what a folder's SHA256SUMS lists; the selection is the folder's name on the share."""
    from medkit.errors import SourceError
    from medkit.sources.plans import Item, Plan, Preflight

    folder = Path(os.environ.get("SHARE", "."), descriptor.selection).resolve()
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = [found.groups() for found in map(_LINE.fullmatch, lines) if found]
        items = [
            Item((folder / name).as_uri(), name, (folder / name).stat().st_size, {"sha256": digest})
            for digest, name in sums
        ]
    except OSError as error:
        raise SourceError(f"{folder} cannot be read ({error.strerror}); is SHARE set?") from None
    return Plan(
        source=descriptor,
        items=lambda: items,
        request=["share", descriptor.selection, [[*each] for each in sums]],
        preflight=Preflight(files=len(items), size=sum(item.size or 0 for item in items)),
    )
