"""``medkit show``: look into the catalog, and at the images of a set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import (
    HERE,
    AnonymiseOption,
    FormatOption,
    JsonOption,
    LimitOption,
    WorkspaceOption,
)
from medkit.cli.terminal import (
    SCREEN,
    print_answer,
    print_json,
    print_summary,
    say,
    show_progress,
)
from medkit.errors import UsageError
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.evaluation.subjects import Look

_SET = "With SET"


def show(
    table: Annotated[
        str,
        typer.Argument(
            help="files, instances, frames, images, series, volumes, studies, persons, labels, "
            "problems, 'summary', or 'tables' for how many rows each has."
        ),
    ] = "tables",
    set_name: Annotated[
        str | None,
        typer.Argument(
            metavar="SET",
            help="After 'images', the name of a set: a contact sheet and a page of its values.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    where: Annotated[
        str | None,
        typer.Option(help="Only rows, or images of the set, that fulfil this SQL condition."),
    ] = None,
    columns: Annotated[str, typer.Option(help="Only these, commas between.")] = "",
    form: FormatOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file, which appears when it is whole; with SET a folder, by default "
            "looks/SET of the workspace.",
        ),
    ] = None,
    limit: LimitOption = None,
    anonymise: AnonymiseOption = False,
    as_json: JsonOption = False,
    label: Annotated[
        str | None,
        typer.Option(
            help="A label of the catalog: images and values class by class.",
            rich_help_panel=_SET,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images on a sheet, by default 64: as many of each class, then of each person.",
            rich_help_panel=_SET,
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Sheets of all images too.", rich_help_panel=_SET)
    ] = False,
    window: Annotated[
        str | None,
        typer.Option(
            help="header (the default; stretched for the eye where there is none), full, lung, "
            "soft, bone, brain, or CENTRE/WIDTH.",
            rich_help_panel=_SET,
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Read so many images for the histograms, by default all of them.",
            rich_help_panel=_SET,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Look into the catalog: its tables, or a summary of them; or at the images of a set.

    CSV and JSON hold the values as they are: a text that a spreadsheet would take for a formula
    stays that text. With --anonymise-output, --where meets pseudonyms too, except on a set.
    """
    of_set = {"--label": label, "--count": count, "--window": window, "--sample": sample}
    of_set |= {"--all": every or None}
    if set_name is not None:
        from medkit.evaluation.subjects import Look

        _refuse({"--columns": columns or None, "--format": form, "--limit": limit}, "a table")
        if table != "images":
            raise UsageError(f"of a set there are 'images' to show, not {table!r}")
        look = Look(label, count or 64, window or "header", where, every, sample or 0, anonymise)
        _show_set(Workspace(workspace), set_name, look, output, as_json)
        return
    _refuse(of_set, "the images of a set, as in 'medkit show images SET'")

    from medkit.catalog.exports import choose_form
    from medkit.catalog.listing import look_up
    from medkit.catalog.store import Catalog
    from medkit.catalog.summary import summarise

    chosen = choose_form(form, output, as_json)
    catalog = Catalog.open(Workspace(workspace).catalog)
    if table == "summary":
        print_summary(summarise(catalog, anonymised=anonymise), chosen, output)
        return
    answer = look_up(
        catalog,
        table,
        where=where,
        columns=[name.strip() for name in columns.split(",") if name.strip()],
        limit=SCREEN if limit is None and chosen == "table" else limit or 0,
        brief=chosen == "table",
        anonymised=anonymise,
    )
    print_answer(answer, chosen, output, limit)


def _refuse(options: Mapping[str, object], what: str) -> None:
    """Refuse options that say nothing of what is shown."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)} is for {what}")


def _show_set(home: Workspace, name: str, look: Look, output: Path | None, as_json: bool) -> None:
    from medkit.evaluation.gallery import look_at

    with home.lock(), show_progress(f"look at {name}") as progress:
        gallery = look_at(home, name, look, output, progress)
    if as_json:
        print_json({"set": name} | gallery.to_json())
        return
    first, *others = gallery.sheets
    say(f"{gallery.shown:,} of {gallery.images:,} images are in {first}")
    if others:
        say(f"all of them are in {others[0]} to {others[-1].name}")
    say(f"their values, and {len(gallery.outliers):,} images worth a look, are in {gallery.page}")
