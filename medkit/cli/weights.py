"""``medkit weights``: pretrained weights on this machine, for trainers that start from them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import explain, print_json, print_table, say

if TYPE_CHECKING:
    from medkit.training.weights import Stored

app = typer.Typer(no_args_is_help=True, help="Pretrained weights on this machine, by content.")


@app.command("list")
def list_stored(as_json: JsonOption = False) -> None:
    """List them; 'medkit train -p weights=HASH' takes 8 digits of a hash or more."""
    from medkit.training.weights import list_weights, store_folder

    found = list_weights()
    if as_json:
        print_json({"folder": str(store_folder()), "weights": [asdict(one) for one in found]})
        return
    print_table(
        f"Weights in {store_folder()}",
        ("name", "hash", "bytes", "network"),
        [(one.name, one.sha256[:16], one.size, one.network) for one in found],
        note="" if found else "None yet: medkit weights add PATH.",
    )


@app.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="A weights file of Keras: .h5 or .weights.h5.")],
    name: Annotated[str | None, typer.Option("--name", help="By default that of the file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a file of weights into the store; a file with more than weights is refused."""
    from medkit.training.weights import add_weights

    stored = add_weights(path, name)
    if as_json:
        print_json(asdict(stored))
    else:
        say(f"{stored.name}: {stored.network or 'of a network that is not known here'}")
        say(f"use it by -p weights={stored.sha256}")


@app.command("verify")
def verify(
    digits: Annotated[
        str | None, typer.Argument(metavar="HASH", help="8 digits or more; by default all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read files again, and leave with 1 if one is not what was added."""
    from medkit.training.weights import find_stored, list_weights

    checked = {one: one.is_sound() for one in ([find_stored(digits)] if digits else list_weights())}
    if as_json:
        print_json({"weights": [asdict(one) | {"sound": checked[one]} for one in checked]})
    else:
        for one, sound in checked.items():
            _tell(one, sound)
    if not all(checked.values()):
        raise typer.Exit(1)


def _tell(one: Stored, sound: bool) -> None:
    if sound:
        say(f"{one.sha256} {one.name}: as it was added")
    else:
        explain(f"{one.sha256} {one.name}: missing or changed; 'medkit weights add' brings it back")
