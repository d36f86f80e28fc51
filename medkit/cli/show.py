"""``medkit show``: look into the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

from medkit.cli.options import (
    HERE,
    AnonymiseOption,
    FormatOption,
    JsonOption,
    LimitOption,
    OutputOption,
    WorkspaceOption,
)
from medkit.cli.terminal import SCREEN, print_answer, print_summary
from medkit.workspace import Workspace


def show(
    table: Annotated[
        str,
        typer.Argument(
            help="files, instances, frames, images, series, volumes, studies, persons, labels, "
            "problems, 'summary', or 'tables' for how many rows each has."
        ),
    ] = "tables",
    workspace: WorkspaceOption = HERE,
    where: Annotated[
        str | None, typer.Option(help="Only rows that fulfil this SQL condition.")
    ] = None,
    columns: Annotated[str, typer.Option(help="Only these, commas between.")] = "",
    form: FormatOption = None,
    output: OutputOption = None,
    limit: LimitOption = None,
    anonymise: AnonymiseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look into the catalog: its tables, or a summary of them.

    CSV and JSON hold the values as they are: a text that a spreadsheet would take for a formula
    stays that text. With --anonymise-output, --where meets pseudonyms too.
    """
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
