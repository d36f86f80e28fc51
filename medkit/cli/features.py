"""``medkit features``: which computed features are kept, and throwing some away."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medkit.training.featurestores import FeatureStore

app = typer.Typer(
    no_args_is_help=True, help="Features of trainers, which are computed once and kept."
)


@app.command("list")
def list_features(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the features that are kept: what of, of how many images, and when last used."""
    from medkit.training.featurestores import list_stores

    stores = list_stores(Workspace(workspace).features)
    if as_json:
        print_json({"features": [asdict(store) for store in stores]})
    else:
        _print("Features", stores)


@app.command("prune")
def prune_features(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Of 'medkit features list'.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SIZE", help="Keep so much, such as 5GB, last used first."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Not used for so many days."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Remove features; a run that needs them again computes them again.

    What an earlier version of medkit left, and this one does not read, goes in any case.
    """
    from medkit.training.featurestores import (
        choose_stores,
        list_stores,
        parse_size,
        remove_stores,
    )

    home = Workspace(workspace)
    size = None if keep is None else parse_size(keep)
    with home.lock():
        stores = list_stores(home.features)
        chosen = choose_stores(stores, keys=keys or (), older_than=older_than, keep=size)
        if not dry_run:
            remove_stores(home.features, chosen)
    if as_json:
        print_json({"removed": [asdict(store) for store in chosen], "dry_run": dry_run})
    elif chosen:
        _print("Would be removed" if dry_run else "Removed", chosen)
    else:
        say("nothing is to be removed: name a KEY, or use --keep or --older-than")


def _print(title: str, stores: Sequence[FeatureStore]) -> None:
    from datetime import datetime

    from medkit.training.featurestores import spell_size

    columns = ("key", "trainer", "of", "images", "size", "last used")
    rows = [
        (
            store.key[:8],
            store.trainer or "of before",
            _tell_origin(store),
            store.images,
            spell_size(store.bytes),
            datetime.fromtimestamp(store.used).astimezone().date(),
        )
        for store in stores
    ]
    total = spell_size(sum(store.bytes for store in stores))
    print_table(title, columns, rows, note=f"{total} in all" if rows else "None are here.")


def _tell_origin(store: FeatureStore) -> str:
    view = (f"{name}={value}" for name, value in sorted(store.view.items()))
    weights = f"weights={store.weights[:12]}" if store.weights else ""
    return " ".join(filter(None, (store.layer, weights, *view)))
