"""``medkit catalog``: index trees of files."""

from __future__ import annotations

from typing import Annotated

import typer

from medkit.cli.options import (
    HERE,
    AnonymiseOption,
    EngineOption,
    JsonOption,
    WorkersOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_summary, print_table, say, show_progress
from medkit.workspace import Workspace


def catalog(
    roots: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders to scan, or URLs (s3://, sftp://); by default raw/ and those scanned "
            "before."
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    source: Annotated[
        str | None,
        typer.Option(help="Whose images these are: PatientIDs are compared within a source."),
    ] = None,
    person_regex: Annotated[
        str | None,
        typer.Option(
            help="Finds the person in a PatientID, or in the path of a picture: the first group, "
            "or the whole match."
        ),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Drop a folder scanned before from the catalog, such as one that moved.",
        ),
    ] = None,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Keep names and birth dates as well.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Read every file again, and make the catalog anew from files and journal; files "
            "that are no longer there are forgotten.",
        ),
    ] = False,
    readers: Annotated[
        list[str] | None,
        typer.Option(
            "--reader",
            metavar="PLUGIN",
            envvar="MEDKIT_READERS",
            help="A plugin that reads another file format; several are asked in this order. The "
            "catalog remembers them; 'none' asks none again.",
        ),
    ] = None,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    anonymise: AnonymiseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Index any tree of files; again and again, only what changed is read."""
    from dataclasses import asdict

    from medkit.catalog.roots import choose_roots
    from medkit.catalog.scan import scan
    from medkit.catalog.store import Catalog
    from medkit.catalog.summary import summarise

    home = Workspace(workspace)
    chosen = choose_roots(home, roots or [], source, person_regex, forget or [])
    with home.lock(), show_progress("catalog") as progress:
        summary = scan(
            home.catalog,
            chosen,
            engine=engine,
            workers=workers,
            progress=progress,
            keep_identifiers=keep_identifiers,
            forget=forget or [],
            rebuild=rebuild,
            readers=readers or None,
        )
    if anonymise:
        summary = summary.hide_warnings()
    if as_json:
        print_json(asdict(summary))
        return
    say(summary.sentence)
    columns = ("kind", "reason", "files", "members of archives")
    print_table("what was found", columns, summary.rows)
    print_summary(summarise(Catalog.open(home.catalog), anonymised=anonymise))
    for warning in summary.warnings:
        say(f"note: {warning}")
