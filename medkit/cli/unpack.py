"""``medkit unpack``: the tree that an archive was made of, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import EngineOption, JsonOption, WorkersOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError


def unpack(
    archive: Annotated[Path, typer.Argument(help="The folder that 'medkit pack' made.")],
    target: Annotated[Path, typer.Argument(help="A new folder for the files.")],
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="original (byte for byte), or packed: recompressed DICOM as it is in the archive.",
        ),
    ] = "original",
    where: Annotated[
        str | None,
        typer.Option(
            help="SQL condition on the archive's index, such as "
            "\"StudyInstanceUID = '1.2.3'\" or \"path LIKE 'a/%'\"."
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            help="original, or portable: names that every system takes, with a list of what they "
            "were. By default what this system needs."
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Unpack what is sound also if some files are not.")
    ] = False,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unpack an archive; every file is compared with the hash of the original.

    Run it again after a break: it goes on where it was. Leaves with 1 if a file is damaged.
    """
    from dataclasses import asdict

    from medkit.archive.unpack import unpack as restore

    if form not in ("original", "packed"):
        raise UsageError(f"--as is original or packed, not {form!r}")
    with show_progress(f"unpack {archive.name}") as progress:
        found = restore(
            archive,
            target,
            where=where,
            packed=form == "packed",
            names=names,
            partial=partial,
            engine=engine,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json(asdict(found))
    else:
        say(f"{found.files:,} files, {found.size:,} bytes of originals, are in {target}")
        if found.renamed:
            say(f"{found.renamed:,} have other names: {target.name}.names.json says which")
        if found.left_out:
            say(f"{found.left_out:,} other files, links and the like were left out by pack")
        if found.faults:
            print_table(f"{len(found.faults):,} are damaged", ("file", "why"), found.faults)
    raise typer.Exit(1 if found.faults else 0)
