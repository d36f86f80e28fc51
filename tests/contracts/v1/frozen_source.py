"""A folder's files, a source of the contract medkit.sources.v1. Frozen: never edit it."""

import os
from pathlib import Path

import medkit


@medkit.hookimpl
def medkit_sources():
    from medkit.sources.descriptor import Plugged

    return Plugged(Path(__file__).parent / "frozen_catalogs", {"frozen": plan})


def plan(descriptor):
    from medkit.sources.plans import Item, Plan, Preflight

    folder = Path(os.environ[descriptor.selection])
    paths = sorted(folder.iterdir())
    items = [Item(path.as_uri(), path.name, path.stat().st_size, {}) for path in paths]
    return Plan(
        source=descriptor,
        items=lambda: items,
        request=["frozen", descriptor.selection],
        preflight=Preflight(files=len(items), size=sum(item.size for item in items)),
    )
