"""``medkit train``: cross-validate trainers on a set.

Start reading the code here, and follow `medkit.training.run.train`: it has the folds made, starts
a child process that fits them (`medkit.training.worker`), and measures what that predicts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.metrics import print_metrics
from medkit.cli.options import (
    HERE,
    ClassesOption,
    DeviceOption,
    FoldsOption,
    JsonOption,
    LabelOption,
    MinPersonsOption,
    SeedOption,
    SetArgument,
    ThreadsOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.training.run import Finished


def train(
    set_name: SetArgument,
    plugins: Annotated[
        list[str],
        typer.Option("--plugin", help="A trainer: see 'medkit plugins list'. May be repeated."),
    ],
    label: LabelOption,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="KEY=VALUE",
            help="Of the trainers, or PLUGIN.KEY=VALUE of one: 'medkit plugins show'.",
        ),
    ] = None,
    classes: ClassesOption = None,
    min_persons: MinPersonsOption = None,
    positive: Annotated[
        str | None, typer.Option("--positive", help="Of two classes, the one to be sensitive to.")
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            "--validation", min=0.0, max=0.5, help="Share of a training part to choose by."
        ),
    ] = 0.15,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the run; with several trainers, its beginning.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train in spite of leaks; the report says so.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Cross-validate trainers by person, and write what came of it to reports.

    The same command goes on where an earlier one was stopped.
    """
    from medkit.cohort.preparation import split_classes
    from medkit.evaluation.report import choose_path, write_page
    from medkit.plugins import load_trainer
    from medkit.training import run
    from medkit.training.params import assign_options

    home = Workspace(workspace)
    known = {plugin: load_trainer(plugin).Params for plugin in plugins}
    finished = []
    with home.lock():
        for plugin, given in assign_options(options or [], known).items():
            with show_progress(plugin) as progress:
                one = run.train(
                    home,
                    set_name,
                    plugin,
                    label=label,
                    options=given,
                    folds=folds,
                    seed=seed,
                    classes=split_classes(classes),
                    min_persons=min_persons,
                    positive=positive,
                    validation_share=validation,
                    name=f"{name}-{plugin}" if name and len(known) > 1 else name,
                    device=device,
                    threads=threads,
                    allow_leaks=allow_leaks,
                    command=["medkit", *sys.argv[1:]],
                    progress=progress,
                )
            write_page([one.folder], choose_path([one.name], None, home), home)
            finished.append(one)
        pages = [choose_path([one.name], None, home) for one in finished]
        if len(finished) > 1:
            pages.append(choose_path([one.name for one in finished], name, home))
            write_page([one.folder for one in finished], pages[-1], home)
    _print(finished, pages, as_json)


def _print(finished: Sequence[Finished], pages: Sequence[Path], as_json: bool) -> None:
    if as_json:
        runs = [
            {"run": one.name, "metrics": one.metrics, "repeated": one.repeated} for one in finished
        ]
        print_json({"runs": runs, "reports": [str(page) for page in pages]})
        return
    for one in finished:
        if one.repeated:
            say(f"the run {one.name} was done before, with these arguments: nothing was to do")
        print_metrics(f"{one.name}, {one.record['k']} folds", one.metrics)
        for warning in one.record["warnings"]:
            say(f"note: {warning}")
    if dropped := finished[0].record["dropped"]:
        print_table("Set aside", ("reason", "images"), list(dropped.items()))
    for page in pages:
        say(f"the report is in {page}")
