"""``medkit evaluate``: a finished run on another set, model locked."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medkit.cli.metrics import print_metrics
from medkit.cli.options import (
    HERE,
    DeviceOption,
    JsonOption,
    LabelOption,
    RunArgument,
    SetArgument,
    ThreadsOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace


def evaluate(
    run: RunArgument,
    set_name: SetArgument,
    label: LabelOption,
    name: Annotated[str | None, typer.Option("--name", help="Of the evaluation.")] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Measure also on persons that were trained on."),
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Measure a finished run on the images of another set; nothing is fitted."""
    from medkit.training import prediction

    home = Workspace(workspace)
    with home.lock(), show_progress(run) as progress:
        done = prediction.evaluate(
            home,
            run,
            set_name,
            label=label,
            name=name,
            allow_overlap=allow_overlap,
            device=device,
            threads=threads,
            command=["medkit", *sys.argv[1:]],
            progress=progress,
        )
    if as_json:
        print_json({"evaluation": done.record, "metrics": done.metrics, "repeated": done.repeated})
        return
    if done.metrics:
        print_metrics(f"{run} on {set_name}", done.metrics)
    if done.record["dropped"]:
        print_table("Set aside", ("reason", "images"), list(done.record["dropped"].items()))
    if overlap := done.record["overlap"]["images"]:
        say(f"{overlap} of these images are of persons or pictures that the run was trained on")
    if done.record["version"] != done.record["trained_with"]:
        say(f"note: the plugin was of version {done.record['trained_with']} when it was trained")
    say(f"the predictions are in {done.folder / 'predictions.parquet'}")
