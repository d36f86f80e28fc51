"""``medkit verify``: read every byte of a set, and name what is damaged."""

from __future__ import annotations

from typing import Annotated

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say
from medkit.errors import UsageError
from medkit.workspace import Workspace


def verify(
    sets: Annotated[
        list[str] | None,
        typer.Argument(help="Which sets; by default all of them.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of the sets, and name each image or file that is damaged.

    Leaves with 1 if there is a fault.
    """
    from dataclasses import asdict

    from medkit.images.imageset import verify as find_faults

    home = Workspace(workspace)
    names = sets or home.names("sets")
    if not names:
        raise UsageError(f"there is no set in {workspace}; make one with 'medkit normalise'")
    faults = {name: find_faults(home.set(name)) for name in names}
    if as_json:
        print_json({name: [asdict(fault) for fault in found] for name, found in faults.items()})
    for name, found in faults.items() if not as_json else ():
        say(f"{name}: {len(found)} fault{'s' * (len(found) > 1)}" if found else f"{name}: sound")
        if found:
            rows = [(fault.image, fault.file, fault.detail) for fault in found]
            print_table("", ("image", "file", "fault"), rows)
    raise typer.Exit(1 if any(faults.values()) else 0)
