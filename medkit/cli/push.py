"""``medkit push`` and ``medkit pull``: over a slow wire, resumed, and verified over there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from medkit.cli.options import HERE, EngineOption, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.pack import (
    CodecOption,
    DeidentifyOption,
    EffortOption,
    KeepOption,
    load_rules,
    print_reasons,
    say_who,
    select,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError

if TYPE_CHECKING:
    from medkit.archive.instances import Stock
    from medkit.archive.push import Pushed
    from medkit.archive.sending import Sent
    from medkit.sources.deposits import Server

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
        int | None,
        typer.Option(min=1, help="On the way at a time; by default 6, to DICOMweb 4, to a PACS 2."),
    ] = None,
    codec: CodecOption = "jpeg-ls",
    effort: EffortOption = "normal",
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Of a folder: MiB of a shard; by default 8 to 1024, by its size."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="Of a folder: make the archive in this folder, and leave it there."),
    ] = None,
    deidentify: DeidentifyOption = False,
    keep: KeepOption = None,
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
    was. Leaves with 1 if a file could not be read, or a server refused instances or has other ones.
    """
    from medkit.archive.push import STREAMS, check_unidentified
    from medkit.archive.push import push as push_archive
    from medkit.archive.relay import ARCHIVE, push_tree
    from medkit.archive.sending import open_server
    from medkit.sources.trees import normalise_root
    from medkit.workspace import hash_json

    to_server = target.partition("://")[0] in _SERVERS
    packed = (source / "archive.json").is_file()
    _check_options(packed, to_server, form, where, archive, deidentify)
    only = select(workspace, source, where) if where and not packed else None
    place = target if to_server else normalise_root(target)
    work = workspace / "pushes" / hash_json([str(source.resolve()), place, form])
    rules = load_rules(workspace, archive or work / ARCHIVE, deidentify, keep)
    if to_server:
        server = open_server(target, plain=plain_http, streams=streams)
        stock = _list(source, packed, where, only, form)
        if not identified:
            check_unidentified(source, stock.identified, stock.burned_in)
        _send(stock, server, work, check, streams, as_json)
    with show_progress(f"push {source.name}") as progress:
        more: dict[str, Any] = {"streams": streams or STREAMS, "progress": progress}
        if packed:
            found = push_archive(source, target, identified=identified, **more)
        else:
            found = push_tree(
                source, target, work, codec=codec, effort=effort,
                shard_size=shard_size << 20 if shard_size else None, only=only, keep=archive,
                rules=rules, identified=identified, engine=engine, workers=workers, **more,
            )  # fmt: skip
    _print_pushed(found, as_json)
    if rules and not as_json:
        say_who(rules)
    raise typer.Exit(1 if "unreadable" in found.left_out else 0)


def _check_options(
    packed: bool,
    to_server: bool,
    form: str,
    where: str | None,
    archive: Path | None,
    deidentify: bool,
) -> None:
    """Refuse what does not fit a source, an archive or a folder, or a target."""
    if form not in ("original", "packed"):
        raise UsageError(f"unknown form {form!r}; use original or packed")
    if form == "packed" and not (to_server and packed):
        raise UsageError("--as packed is of an archive that goes to a server")
    if where and packed and not to_server:
        raise UsageError("an archive goes to a place of files as a whole, without --where")
    if archive and (to_server or packed):
        raise UsageError("--archive is of a folder that is packed on its way")
    if deidentify and (to_server or packed):
        raise UsageError(
            "--deidentify is of a folder that is packed on its way; for a server of images run "
            "'medkit pack --deidentify' first, and push that archive"
        )


def _list(
    source: Path, packed: bool, where: str | None, only: Collection[str] | None, form: str
) -> Stock:
    from medkit.archive.archive import Archive
    from medkit.archive.instances import list_archive, list_tree

    if packed:
        return list_archive(Archive.open(source.resolve()), where, packed=form == "packed")
    return list_tree(source, only)


def _send(
    stock: Stock, server: Server, work: Path, check: str, streams: int | None, as_json: bool
) -> NoReturn:
    from medkit.archive.sending import send

    with show_progress(f"push to {server.name}") as progress:
        found = send(stock, server, work, check=check, streams=streams, progress=progress)
    _print_sent(found, server.name, as_json)
    raise typer.Exit(1 if found.troubles else 0)


def _print_pushed(found: Pushed, as_json: bool) -> None:
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
    print_reasons("left out, because", found.left_out)


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
