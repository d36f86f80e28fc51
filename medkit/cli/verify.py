"""``medkit verify``: read every byte of a set or an archive, and name what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkersOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError
from medkit.workspace import Workspace


def verify(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET | ARCHIVE]...",
            help="Names of sets, or folders of archives; by default all sets.",
            show_default=False,
        ),
    ] = None,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="Also restore every file of an archive, and compare it."),
    ] = False,
    workspace: WorkspaceOption = HERE,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of sets and archives, and name each image or file that is damaged.

    Of an archive it goes on after a break where it was. Leaves with 1 if there is a fault.
    """
    home = Workspace(workspace)
    names = things or home.names("sets")
    if not names:
        raise UsageError(f"there is no set in {workspace}; make one with 'medkit normalise'")
    found = {
        name: _check_archive(Path(name), restore, workers)
        if _is_archive(name)
        else _check_set(home, name)
        for name in names
    }
    if as_json:
        print_json(found)
    for name, faults in found.items() if not as_json else ():
        count = len(faults)
        say(f"{name}: {count} fault{'s' * (count > 1)}" if faults else f"{name}: sound")
        if faults:
            print_table("", (*list(faults[0])[:2], "fault"), [[*one.values()] for one in faults])
    raise typer.Exit(1 if any(found.values()) else 0)


def _is_archive(name: str) -> bool:
    """Say whether a folder of medkit's archives is meant, and not the name of a set."""
    folder = Path(name)
    begun = (folder / ".work").is_dir()
    return begun or (folder / "archive.json").exists() or (folder.is_dir() and "/" in name)


def _check_set(home: Workspace, name: str) -> list[dict[str, object]]:
    from dataclasses import asdict

    from medkit.images.imageset import verify as find_faults

    return [asdict(fault) for fault in find_faults(home.set(name))]


def _check_archive(folder: Path, restore: bool, workers: int | None) -> list[dict[str, object]]:
    from dataclasses import asdict

    from medkit.archive.verify import verify as find_faults

    with show_progress(f"verify {folder.name}") as progress:
        faults = find_faults(folder, restore=restore, workers=workers, progress=progress)
    return [asdict(fault) for fault in faults]
