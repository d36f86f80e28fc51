"""``medkit label``: say what is known of images from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say
from medkit.errors import UsageError
from medkit.workspace import Workspace


def label(
    name: Annotated[
        str,
        typer.Argument(
            help="What to call the label, such as diagnosis; with --csv several columns at once, "
            "commas between."
        ),
    ],
    workspace: WorkspaceOption = HERE,
    csv: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file that tells the values.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Its column of values; by default NAME, or 'label'."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="Its column to join on, COLUMN or COLUMN=KEY with KEY such as PatientID; by "
            "default it is found."
        ),
    ] = None,
    folder: Annotated[
        bool, typer.Option("--folder", help="The name of the folder that a file lies in.")
    ] = False,
    tag: Annotated[str | None, typer.Option(help="A DICOM keyword, such as Modality.")] = None,
    regex: Annotated[
        str | None, typer.Option(help="Finds the value in the path: first group, or whole match.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="With --folder, --tag, --regex: only of this source.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what the label held before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Label images: by a table, a folder's name, a DICOM tag, or a part of the path."""
    from dataclasses import asdict

    from medkit.catalog.labels import choose_rule, label_images

    home = Workspace(workspace)
    rule = choose_rule(
        csv=csv, column=column, on=on, folder=folder, tag=tag, regex=regex, source=source
    )
    names = [one.strip() for one in name.split(",")]
    if len(names) > 1 and (csv is None or column is not None):
        raise UsageError("several labels are columns of one --csv FILE, each with the label's name")
    with home.lock():
        every = [label_images(home.catalog, one, rule, replace=replace) for one in names]
    if as_json:
        told = [asdict(done) for done in every]
        print_json(told[0] if len(told) == 1 else told)
        return
    for done in every:
        print_table(f"label {done.name}", ("value", "images"), list(done.values.items()))
        say(done.sentence)
    for warning in every[-1].warnings:
        say(f"note: {warning}")
