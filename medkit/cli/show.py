"""``medkit show``: look into the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table
from medkit.workspace import Workspace


def show(
    table: Annotated[
        str, typer.Argument(help="A table, or 'images', or 'tables' for what there is.")
    ] = "tables",
    workspace: WorkspaceOption = HERE,
    sql: Annotated[
        str | None, typer.Option(help="A SELECT over the tables, instead of a table.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows that fulfil this SQL condition.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows to show; 0 for all.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Look into the catalog: its tables, or the answer to a question in SQL."""
    from medkit.catalog.listing import look_up
    from medkit.catalog.store import Catalog

    catalog = Catalog.open(Workspace(workspace).catalog)
    found = look_up(catalog, table, sql=sql, where=where, limit=limit)
    if as_json:
        print_json(found.records)
    else:
        print_table(found.title, found.columns, found.rows, note=found.note)
