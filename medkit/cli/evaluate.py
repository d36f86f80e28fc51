"""``medkit evaluate``: a finished run on another set, model locked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from medkit.cli.metrics import print_metrics
from medkit.cli.options import (
    HERE,
    DeviceOption,
    JsonOption,
    LabelOption,
    OutsideDomainOption,
    RunArgument,
    SeparatorOption,
    SetArgument,
    ThreadsOption,
    ThresholdOption,
    WorkspaceOption,
)
from medkit.cli.predict import print_warnings, tell_rule
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace


def evaluate(
    run: RunArgument,
    set_name: SetArgument,
    label: LabelOption,
    separator: SeparatorOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the evaluation.")] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Measure also on persons that were trained on."),
    ] = False,
    threshold: ThresholdOption = "argmax",
    outside_domain: OutsideDomainOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Measure a finished run on the images of another set; nothing is fitted.

    Model, calibration and threshold are those that were fixed when the run ended.
    """
    from medkit.training import prediction

    home = Workspace(workspace)
    with home.lock(), show_progress(run) as progress:
        done = prediction.evaluate(
            home,
            run,
            set_name,
            label=label,
            separator=separator,
            name=name,
            threshold=threshold,
            allow_overlap=allow_overlap,
            outside_domain=outside_domain,
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
        say(f"decided by: {tell_rule(done.record)}")
        _print_calibration(done.metrics)
    for title, what in (("Set aside", "set_aside"), ("Refused", "refused")):
        if counts := done.record["counts"][what]:
            print_table(title, ("reason", "images"), list(counts.items()))
    print_warnings(done)
    say(f"the predictions are in {done.folder / 'predictions.parquet'}")


def _print_calibration(metrics: Mapping[str, Any]) -> None:
    """Print how much the probabilities can be believed here."""
    calibration = metrics["calibration"]
    print_table(
        "Calibration",
        ("metric", "raw", "calibrated"),
        [
            (name.replace("_", " "), f"{before:.3f}", f"{calibration['after'][name]:.3f}")
            for name, before in calibration["before"].items()
        ],
        note=f"by the run's temperature, {_spell(calibration['temperature'])}",
    )


def _spell(temperature: float | list[float]) -> str:
    each = temperature if isinstance(temperature, list) else [temperature]
    return ", ".join(f"{one:.3g}" for one in each)
