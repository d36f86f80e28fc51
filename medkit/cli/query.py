"""``medkit query``: ask the catalog in SQL."""

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
from medkit.cli.terminal import print_answer
from medkit.workspace import Workspace


def query(
    sql: Annotated[str, typer.Argument(help="A SELECT over the tables that 'medkit show' lists.")],
    workspace: WorkspaceOption = HERE,
    form: FormatOption = None,
    output: OutputOption = None,
    limit: LimitOption = None,
    anonymise: AnonymiseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the catalog a question in SQL; the catalog is never changed by it.

    CSV and JSON hold the values as they are: a text that a spreadsheet would take for a formula
    stays that text. With --anonymise-output, the question itself meets pseudonyms alone.
    """
    from medkit.catalog.exports import choose_form
    from medkit.catalog.listing import ask
    from medkit.catalog.store import Catalog

    chosen = choose_form(form, output, as_json)
    catalog = Catalog.open(Workspace(workspace).catalog)
    print_answer(ask(catalog, sql, anonymised=anonymise), chosen, output, limit)
