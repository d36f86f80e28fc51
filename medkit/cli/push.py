"""``medkit push`` and ``medkit pull``: an archive over a slow wire, resumed and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import print_json, say, show_progress


def push(
    archive: Annotated[Path, typer.Argument(help="The folder that 'medkit pack' made.")],
    target: Annotated[
        str, typer.Argument(help="A folder, or a URL such as sftp://host/folder or s3://bucket/a.")
    ],
    identified: Annotated[
        bool,
        typer.Option("--identified", help="Send it away even if its files say whom they are of."),
    ] = False,
    streams: Annotated[int, typer.Option(min=1, help="Files on the way at a time.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Copy an archive to another machine; every shard is compared there with its hash.

    Run it again after a break: it goes on where it was, and sends only what is not there.
    """
    from dataclasses import asdict

    from medkit.archive.push import push as send

    with show_progress(f"push {archive.name}") as progress:
        found = send(archive, target, identified=identified, streams=streams, progress=progress)
    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.files:,} files, {found.size:,} bytes, were sent; {found.skipped:,} were there")
    if found.identified or found.burned_in:
        say(
            f"{found.identified:,} members have identifiers of persons, and {found.burned_in:,} "
            "images may have text in their pixels"
        )


def pull(
    source: Annotated[str, typer.Argument(help="Where 'medkit push' put it.")],
    archive: Annotated[Path, typer.Argument(help="A new folder for the archive.")],
) -> None:
    """Copy an archive from another machine; every shard is compared with its hash."""
    from medkit.archive.push import pull as fetch

    with show_progress(f"pull {archive.name}") as progress:
        found = fetch(source, archive, progress=progress)
    say(f"{len(found.contents):,} files, {found.size:,} bytes, are in {archive} and sound")
