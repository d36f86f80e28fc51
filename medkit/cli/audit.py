"""``medkit audit``: what is wrong with the images, found before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medkit.cli.options import (
    HERE,
    ClassesOption,
    FoldsOption,
    JsonOption,
    LabelOption,
    MinPersonsOption,
    SeedOption,
    SetArgument,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say

if TYPE_CHECKING:
    from medkit.cohort.preparation import Prepared

app = typer.Typer(no_args_is_help=True)


@app.callback()  # without one, typer would merge a single command into the verb
def audit() -> None:
    """What is wrong with the images, found before training."""


@app.command()
def leaks(
    set_name: SetArgument,
    label: LabelOption,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    min_persons: MinPersonsOption = None,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make the folds of a set, and find what stands on both sides of them."""
    from medkit.cohort.leaks import check_leaks
    from medkit.cohort.preparation import prepare_folds, split_classes
    from medkit.workspace import Workspace

    home = Workspace(workspace)
    with home.lock():
        chosen = split_classes(classes)
        prepared = prepare_folds(home, set_name, label, folds, seed, min_persons, chosen)
    if as_json:
        print_json(prepared.describe())
    else:
        _print_folds(prepared)
    check_leaks(prepared.leaks)


def _print_folds(prepared: Prepared) -> None:
    folds, cohort, leaks = prepared.folds, prepared.cohort, prepared.leaks
    rows = [
        (fold["fold"], fold["persons"], fold["images"], *fold["classes"].values())
        for fold in folds.describe()
    ]
    print_table(
        f"Folds of {folds.set_name} by {folds.label}",
        ("fold", "persons", "images", *folds.classes),
        rows,
        note=f"{leaks.images} images; folds {folds.key}",
    )
    if cohort.dropped:
        print_table("Set aside", ("reason", "images"), list(cohort.dropped.items()))
    if cohort.small_classes:
        print_table("Classes set aside", ("class", "persons"), list(cohort.small_classes.items()))
    found = [("leak", finding) for finding in leaks.exact]
    found += [("to see", finding) for finding in leaks.listed]
    if found:
        print_table(
            "Found",
            ("", "what", "how many", "images", "such as"),
            [(kind, f.meaning, f.count, f.images, f.examples[0]["paths"][0]) for kind, f in found],
        )
    if leaks.ok:
        say("No person, study or picture is in two folds.")
