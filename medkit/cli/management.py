"""``medkit plugins install``, ``uninstall``, ``upgrade``, ``freeze`` and ``sync``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import print_json, print_table, say, show_progress

if TYPE_CHECKING:
    from medkit.plugins.management import Installed

NameArgument = Annotated[str, typer.Argument(help="Of a plugin, or of its distribution.")]
LinksOption = Annotated[
    list[str] | None,
    typer.Option("--find-links", metavar="PLACE", help="A folder, or a page, with wheels."),
]
NoIndexOption = Annotated[
    bool, typer.Option("--no-index", help="Look nowhere but in --find-links.")
]
IndexOption = Annotated[
    str | None, typer.Option("--index-url", metavar="URL", help="Of another package index.")
]


def install(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH|URL|WHEEL",
            help="A distribution by its name, with or without a version; or the folder, the URL "
            "or the wheel that it is.",
        ),
    ],
    editable: Annotated[
        bool, typer.Option("-e", "--editable", help="Read the folder's code where it lies.")
    ] = False,
    isolated: Annotated[
        bool,
        typer.Option("--isolated", help="Give a trainer an environment of its own."),
    ] = False,
    light: Annotated[
        bool,
        typer.Option(
            "--light", help="Isolated, with this environment's libraries beneath its own."
        ),
    ] = False,
    find_links: LinksOption = None,
    no_index: NoIndexOption = False,
    index_url: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a plugin; what would break medkit or another is refused, and nothing is changed."""
    from medkit.plugins.candidates import read_wanted
    from medkit.plugins.management import install

    wanted = read_wanted(what, editable)
    with show_progress(f"installing {wanted.shown}"):
        done = install(
            wanted,
            isolated=isolated or light,
            light=light,
            arguments=_list_places(find_links, no_index, index_url),
        )
    _tell([done], "installed", as_json)


def uninstall(name: NameArgument, as_json: JsonOption = False) -> None:
    """Uninstall the distribution of a plugin, or remove the environment of an isolated one."""
    from medkit.plugins.management import uninstall

    _tell([uninstall(name)], "uninstalled", as_json)


def upgrade(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of plugins or distributions; by default all.")
    ] = None,
    find_links: LinksOption = None,
    no_index: NoIndexOption = False,
    index_url: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring plugins to their newest version; isolated environments are made anew."""
    from medkit.plugins.management import upgrade

    with show_progress("upgrading"):
        done = upgrade(names or (), _list_places(find_links, no_index, index_url))
    _tell(done, "has", as_json)


def freeze(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; by default it is printed.")
    ] = None,
) -> None:
    """Write a file that brings the same plugins back, with 'medkit plugins sync'."""
    from medkit.plugins.freezing import freeze
    from medkit.workspace import write_beside

    text = freeze()
    if output is None:
        typer.echo(text, nl=False)
        return
    with write_beside(output) as beside:
        beside.write_text(text, encoding="utf-8")
    say(f"wrote {output}")


def sync(
    file: Annotated[Path, typer.Argument(help="As 'medkit plugins freeze' writes it.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Uninstall plugins that the file does not have.")
    ] = False,
    find_links: LinksOption = None,
    no_index: NoIndexOption = False,
    index_url: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install what a file of 'medkit plugins freeze' has, in the versions it has."""
    from medkit.plugins.freezing import sync

    with show_progress(f"installing what {file} has"):
        steps = sync(file, prune=prune, arguments=_list_places(find_links, no_index, index_url))
    if as_json:
        print_json({"plugins": [step._asdict() for step in steps]})
    else:
        columns = ("distribution", "version", "what was done", "why")
        print_table("Plugins", columns, steps)
    if any(step.done == "failed" for step in steps):
        raise typer.Exit(1)


def _list_places(
    find_links: Sequence[str] | None, no_index: bool, index_url: str | None
) -> list[str]:
    """Return where to look, as pip and uv take it."""
    links = [part for one in find_links or () for part in ("--find-links", one)]
    alone = ["--no-index"] if no_index else []
    return [*links, *alone, *(["--index-url", index_url] if index_url else [])]


def _tell(done: Sequence[Installed], verb: str, as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in done])
        return
    for one in done:
        place = "isolated" if one.where == "isolated" else "in this environment"
        say(f"{verb} {one.distribution} {one.version}, {place}, with {one.tool}")
        say(f"    plugins: {', '.join(one.plugins)}")
        if one.brought:
            brought = ", ".join(f"{name} {version}" for name, version in one.brought.items())
            say(f"    came with it: {brought}")
        for note in one.notes:
            say(f"    note: {note}")
