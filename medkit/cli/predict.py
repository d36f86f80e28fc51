"""``medkit predict``: a finished run on images without labels."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medkit.cli.options import (
    HERE,
    DeviceOption,
    JsonOption,
    RunArgument,
    SetArgument,
    ThreadsOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, say, show_progress
from medkit.workspace import Workspace


def predict(
    run: RunArgument,
    set_name: SetArgument,
    name: Annotated[str | None, typer.Option("--name", help="Of the evaluation.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Predict every image of a set with a finished run."""
    from medkit.training import prediction

    home = Workspace(workspace)
    with home.lock(), show_progress(run) as progress:
        done = prediction.predict(
            home,
            run,
            set_name,
            name=name,
            device=device,
            threads=threads,
            command=["medkit", *sys.argv[1:]],
            progress=progress,
        )
    path = done.folder / "predictions.parquet"
    if as_json:
        print_json({"evaluation": done.record, "predictions": str(path)})
        return
    if overlap := done.record["overlap"]["images"]:
        say(f"{overlap} of these images are of persons or pictures that the run was trained on")
    say(f"{done.record['images']} images are predicted in {path}")
