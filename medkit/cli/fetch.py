"""``medkit fetch``: bring a source into the workspace."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_facts, print_json, print_table, say, show_progress
from medkit.errors import UsageError
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.sources.descriptor import Descriptor
    from medkit.sources.fetching import Fetched


def fetch(
    target: Annotated[
        str,
        typer.Argument(
            help="A known source, the path of a folder or an archive, or an https address.",
            show_default=False,
        ),
    ] = "",
    workspace: WorkspaceOption = HERE,
    name: Annotated[str, typer.Option(help="What to call it; by default as the target.")] = "",
    sha256: Annotated[str, typer.Option(help="What a download or archive must hash to.")] = "",
    no_hash: Annotated[
        bool, typer.Option("--no-hash", help="Take a download of which no SHA-256 is known.")
    ] = False,
    licence: Annotated[str, typer.Option(help="The licence, where no descriptor says it.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show licence and size, and bring nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Licence and size are accepted.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="Show the known sources and those fetched.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a set of images, verified, its licence shown before a byte is moved.

    A folder is registered and read in place. An archive is unpacked. A download needs the SHA-256
    that its publisher states. Run it again after a break: it goes on where it was.
    """
    home = Workspace(workspace)
    if list_all:
        _list(home, as_json)
        return
    if not target:
        raise UsageError("name a source, a folder, an archive or an https address, or use --list")
    from medkit.sources.fetching import fetch as bring
    from medkit.sources.targets import describe_target

    descriptor = describe_target(
        target, name=name, sha256=sha256, licence=licence, unchecked=no_hash
    )
    if dry_run:
        _show(descriptor, as_json)
        return
    # What is on this machine already has come under some licence already.
    is_here = descriptor.protocol == "local" or home.source(descriptor.name).exists()
    if not is_here and not yes:
        _confirm(descriptor, as_json)
    with home.lock(), show_progress(f"fetch {descriptor.name}") as progress:
        fetched = bring(descriptor, home, progress=progress)
    _print(fetched, descriptor, as_json)


def _list(home: Workspace, as_json: bool) -> None:
    from dataclasses import asdict

    from medkit.sources.descriptor import list_descriptors
    from medkit.sources.fetching import list_sources

    known, here = list_descriptors(), list_sources(home)
    if as_json:
        print_json(asdict(known) | {"fetched": [asdict(source) for source in here]})
        return
    rows = [
        (source.name, source.title, _size(source), source.licence) for source in known.descriptors
    ]
    print_table("Known sources", ("name", "title", "size", "licence"), rows)
    print_table(
        f"Fetched, in {home.root}",
        ("name", "folder", "licence"),
        [(source.name, source.folder, source.licence) for source in here],
    )
    for problem in known.problems:
        say(f"no descriptor: {problem}")


def _show(descriptor: Descriptor, as_json: bool) -> None:
    from dataclasses import asdict

    from medkit.sources.addresses import hide_query

    if as_json:
        files = [asdict(file) | {"url": hide_query(file.url)} for file in descriptor.files]
        print_json(asdict(descriptor) | {"files": files})
        return
    facts = {
        "title": descriptor.title,
        "version": descriptor.version,
        "licence": descriptor.licence,
        "citation": descriptor.citation,
        "homepage": descriptor.homepage,
        "modality": ", ".join(descriptor.modality),
        "size": _size(descriptor),
        "notes": descriptor.notes,
    }
    print_facts(descriptor.name, {key: value for key, value in facts.items() if value})


def _confirm(descriptor: Descriptor, as_json: bool) -> None:
    if not as_json:
        _show(descriptor, as_json)
    if not sys.stdin.isatty():
        raise UsageError(
            f"{descriptor.name}: licence {descriptor.licence}, {_size(descriptor)}; accept them "
            "with --yes, as nobody can be asked here"
        )
    typer.confirm(
        f"Licence: {descriptor.licence}. Size: {_size(descriptor)}. Fetch?", abort=True, err=True
    )


def _print(fetched: Fetched, descriptor: Descriptor, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(fetched))
        return
    source = fetched.source
    amount = "" if fetched.files is None else f"{fetched.files:,} files, {fetched.size:,} bytes, "
    say(f"{source.name}: {fetched.status}; {amount}in {source.folder}")
    say(f"licence: {source.licence}")
    if descriptor.notes and fetched.status != "already there":
        say(descriptor.notes)
    for origin in fetched.origins:
        if origin["reference"] == "none":
            say(f"no reference hash for {origin['url']}; what came has {origin['sha256']}")


def _size(descriptor: Descriptor) -> str:
    size = descriptor.size_bytes
    return "size not stated" if size is None else f"{size / 1e6:,.1f} MB"
