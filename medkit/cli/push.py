"""``medkit push`` and ``medkit pull``: over a slow wire, resumed, and verified over there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medkit.cli.options import HERE, EngineOption, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError

if TYPE_CHECKING:
    from medkit.archive.sending import Sent

_SERVERS = ("dicomweb", "dicomweb+https", "dicomweb+http", "dimse")
_STATES = {
    "verified": "came back with the same pixels",
    "listed": "are listed by the server, and were not brought back",
    "accepted": "were taken by a server that answers no query",
    "refused": "were refused",
    "differs": "are other ones at the server",
    "missing": "were taken, and are not listed",
}
_WHY = {
    "not-dicom": "no DICOM file",
    "twin": "equal to another file, byte for byte",
    "link": "a link",
    "no-plain-file": "a device, a pipe or the like",
    "unreadable": "not readable",
}


def push(
    source: Annotated[
        Path, typer.Argument(help="A folder of files, or the archive that 'medkit pack' made.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="A folder, a URL such as sftp://host/folder or s3://bucket/a, or a server: "
            "dicomweb+https://host/dicom-web, dimse://AET@host:port."
        ),
    ],
    identified: Annotated[
        bool,
        typer.Option("--identified", help="Send it away even if its files say whom they are of."),
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            help="SQL condition: of a folder on the catalog's view 'images', as of pack; of an "
            "archive that goes to a server on the archive's index, as of unpack."
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option("--as", help="Of an archive, to a server: 'original' files or 'packed' ones."),
    ] = "original",
    check: Annotated[
        str,
        typer.Option(
            help="At a server: 'pixels' brings each instance back and compares; 'listed' only asks "
            "whether it is there."
        ),
    ] = "pixels",
    streams: Annotated[
        int | None, typer.Option(min=1, help="On the way at a time; by default 4, 2 to a PACS.")
    ] = None,
    codec: Annotated[str, typer.Option(help="Of a folder, as of pack.")] = "jpeg-ls",
    effort: Annotated[str, typer.Option(help="Of a folder, as of pack.")] = "normal",
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Of a folder: MiB of a shard; by default 8 to 1024, by its size."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Of a folder: keep the archive in this folder, too.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Take a server with http:// on your network.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a folder or an archive to another machine, and compare what is there.

    Files far away get an archive: a folder is packed on the way, and each shard is sent while the
    next is packed. Servers get DICOM instances. Run it again after a break: it goes on where it
    was. Leaves with 1 if a server refused instances, or has other ones.
    """
    from medkit.sources.trees import normalise_root
    from medkit.workspace import hash_json

    server = target.partition("://")[0] in _SERVERS
    archive = (source / "archive.json").is_file()
    _check_options(server, archive, where, form, keep)
    key = hash_json([str(source.resolve()), target if server else normalise_root(target), form])
    work = workspace / "pushes" / key
    if server:
        _send(source, target, work, archive, as_json, workspace, where=where, form=form,
              check=check, streams=streams, identified=identified, plain=plain_http)  # fmt: skip
        return
    more: dict[str, Any] = {"identified": identified, "streams": streams or 4}
    with show_progress(f"push {source.name}") as progress:
        if archive:
            from medkit.archive.push import push as send

            found = send(source, target, **more, progress=progress)
        else:
            from medkit.archive.relay import push_tree
            from medkit.cli.pack import select

            found = push_tree(
                source, target, work, codec=codec, effort=effort,
                shard_size=shard_size << 20 if shard_size else None,
                only=select(workspace, source, where) if where else None,
                keep=keep, engine=engine, workers=workers, progress=progress, **more,
            )  # fmt: skip
    _print_pushed(found, as_json)


def _check_options(
    server: bool, archive: bool, where: str | None, form: str, keep: Path | None
) -> None:
    if form not in ("original", "packed"):
        raise UsageError(f"unknown form {form!r}; use original or packed")
    if form == "packed" and not (server and archive):
        raise UsageError("--as packed is of an archive that goes to a server")
    if where and archive and not server:
        raise UsageError("an archive goes to a place of files as a whole, without --where")
    if keep and (server or archive):
        raise UsageError("--keep is of a folder that is packed on its way")


def _send(
    source: Path,
    target: str,
    work: Path,
    archive: bool,
    as_json: bool,
    workspace: Path,
    *,
    where: str | None,
    form: str,
    check: str,
    streams: int | None,
    identified: bool,
    plain: bool,
) -> None:
    from medkit.archive.archive import Archive
    from medkit.archive.instances import list_archive, list_tree
    from medkit.archive.push import check_unidentified
    from medkit.archive.sending import open_server, send
    from medkit.cli.pack import select

    server = open_server(target, plain=plain, streams=streams)
    if archive:
        stock = list_archive(Archive.open(source.resolve()), where, packed=form == "packed")
    else:
        stock = list_tree(source, select(workspace, source, where) if where else None)
    if not identified:
        check_unidentified(source, stock.identified, stock.burned_in)
    with show_progress(f"push {source.name}") as progress:
        found = send(stock, server, work, check=check, streams=streams, progress=progress)
    _print_sent(found, server.name, as_json)
    raise typer.Exit(1 if found.troubles else 0)


def _print_pushed(found: Any, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.files:,} files, {found.size:,} bytes, were sent; {found.skipped:,} were there")
    if found.identified or found.burned_in:
        say(
            f"{found.identified:,} members have identifiers of persons, and {found.burned_in:,} "
            "images may have text in their pixels"
        )


def _print_sent(found: Sent, name: str, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(found))
        return
    rows = [(found.states[state], text) for state, text in _STATES.items() if state in found.states]
    print_table(
        f"{found.instances:,} instances for {name}, {found.sent:,} sent now",
        ("instances", ""),
        rows,
    )
    if found.left_out:
        left = [(count, _WHY.get(code, code)) for code, count in sorted(found.left_out.items())]
        print_table(f"{sum(found.left_out.values()):,} files are left out", ("files", "why"), left)
    if found.troubles:
        say(f"{len(found.troubles):,} files are not there as they should be:")
        for one in found.troubles:  # a line each, which may be long, to be searched and copied
            say(f"{one.state}: {one.path} {one.uid}: {one.reason}")


def pull(
    source: Annotated[str, typer.Argument(help="Where 'medkit push' put an archive.")],
    archive: Annotated[Path, typer.Argument(help="A new folder for the archive.")],
) -> None:
    """Copy an archive from another machine; every shard is compared with its hash.

    Servers of images have no archives: 'medkit fetch' brings series of a DICOMweb server or a PACS.
    """
    from medkit.archive.push import pull as fetch

    if source.partition("://")[0] in _SERVERS:
        raise UsageError(
            f"{source.partition('://')[0]}:// is a server of images, and pull brings archives; "
            "'medkit fetch' brings its series"
        )
    with show_progress(f"pull {archive.name}") as progress:
        found = fetch(source, archive, progress=progress)
    say(f"{len(found.contents):,} files, {found.size:,} bytes, are in {archive} and sound")
