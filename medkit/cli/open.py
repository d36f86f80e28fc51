"""``medkit open``: measure finished runs on what was held out, once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medkit.cli.metrics import print_metrics
from medkit.cli.options import (
    HERE,
    DeviceOption,
    JsonOption,
    OutsideDomainOption,
    ThreadsOption,
    ThresholdOption,
    WorkspaceOption,
)
from medkit.cli.predict import print_warnings, tell_rule
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace


def open_held_out(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Finished runs that hold out the same.")
    ],
    threshold: ThresholdOption = "argmax",
    again: Annotated[
        bool,
        typer.Option("--again", help="Also if it was opened before; the report says how often."),
    ] = False,
    outside_domain: OutsideDomainOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Measure finished runs on the persons that 'train --hold-out' kept away from them.

    That can be done once: it is written down in openings.jsonl before anything is measured.
    """
    from medkit.training import prediction

    home = Workspace(workspace)
    with home.lock(), show_progress("held out") as progress:
        opening, measured = prediction.open_held_out(
            home,
            runs,
            threshold=threshold,
            again=again,
            outside_domain=outside_domain,
            device=device,
            threads=threads,
            command=["medkit", *sys.argv[1:]],
            progress=progress,
        )
    if as_json:
        told = {"number": opening.number, "opened": opening.opened, "held_out": opening.held_out}
        found = [{"evaluation": one.record, "metrics": one.metrics} for one in measured]
        print_json({"opening": told, "evaluations": found})
        return
    for run, done in zip(runs, measured, strict=True):
        if done.metrics:
            print_metrics(f"{run} on what was held out", done.metrics)
        say(f"decided by: {tell_rule(done.record)}")
        if refused := done.record["counts"]["refused"]:
            print_table("Refused", ("reason", "images"), list(refused.items()))
        print_warnings(done)
        say(f"the predictions are in {done.folder / 'predictions.parquet'}")
    say(_tell_number(opening.number, opening.opened))


def _tell_number(number: int, opened: str) -> str:
    if number == 1:
        return f"opened for the first time, {opened}; keep no further choice for after this"
    return (
        f"opened for the {number}. time, {opened}: what was chosen since the first time was chosen "
        "knowing the answer, and the number may be too good"
    )
