"""``medkit demo``: the whole road on real DICOM, by the commands that a user would type."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from medkit.cli.options import JsonOption, SeedOption
from medkit.cli.terminal import print_json, say

TRAINERS = ("softmax", "cnn", "inception")
# Where Keras has ImageNet's weights; without a way there the demo shows a random network.
WEIGHTS_HOST = ("storage.googleapis.com", 443)


def demo(
    workspace: Annotated[
        Path, typer.Option("-w", "--workspace", help="The folder to do it in.")
    ] = Path("demo-workspace"),
    weights: Annotated[
        str,
        typer.Option(
            help="Of inception: imagenet, none, or a file; 'auto' is imagenet where Keras can "
            "download it, else none."
        ),
    ] = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Walk the whole road on the real DICOM files that pydicom ships, and show the page.

    The label is the modality, and the persons are a handful: this shows how medkit works, and is
    no result.
    """
    if weights == "auto":
        weights = "imagenet" if _can_reach(WEIGHTS_HOST) else "none"
    results = {
        shlex.join(step): _take(step, workspace, as_json) for step in _list_steps(weights, seed)
    }
    if as_json:
        print_json(results)


def _list_steps(weights: str, seed: int) -> Iterator[list[str]]:
    task = ["--label", "modality", "--folds", "3", "--min-persons", "5", "--seed", str(seed)]
    plugins = [part for trainer in TRAINERS for part in ("--plugin", trainer)]
    yield ["fetch", "pydicom-test-files"]
    yield ["fetch", "pydicom-data"]
    yield ["catalog"]
    yield ["label", "modality", "--tag", "Modality"]
    # One frame a file: a single ultrasound loop would be most of the set.
    yield ["normalise", "demo", "--where", "frame = 0"]
    yield ["verify", "demo"]
    yield ["audit", "leaks", "demo", *task]
    yield ["train", "demo", *plugins, *task, "-p", f"inception.weights={weights}"]


def _take(step: Sequence[str], workspace: Path, as_json: bool) -> Any:
    """Run one command as if it had been typed; with JSON, return what it printed."""
    from medkit.cli import app

    arguments = [*step, "-w", str(workspace), *(["--json"] if as_json else [])]
    if not as_json:
        say("")
        say(f"$ medkit {shlex.join(arguments)}")
    printed = StringIO()
    with redirect_stdout(printed) if as_json else nullcontext():
        failed = app(arguments, standalone_mode=False)
    if failed:
        raise typer.Exit(failed)
    return json.loads(printed.getvalue()) if as_json else None


def _can_reach(address: tuple[str, int]) -> bool:
    import socket

    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return False
    return True
