"""``medkit plugins new``: the beginning of a trainer of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import print_json, say


def new(
    name: Annotated[
        str, typer.Argument(help="The trainer's name, for --plugin; lower case, with hyphens.")
    ],
    framework: Annotated[
        str, typer.Option("--framework", "-f", help="keras, torch, sklearn or jax.")
    ],
    into: Annotated[
        Path, typer.Option("--into", help="The folder in which medkit-NAME is made.")
    ] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write a small trainer that works: its code, its tests and what pip needs to install it."""
    from medkit.scaffolding.distribution import write_distribution

    folder = write_distribution(name, framework, into)
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    if as_json:
        print_json({"name": name, "framework": framework, "folder": str(folder), "files": files})
        return
    say(f"Wrote {folder}, with {len(files)} files; README.md says where to begin. Then:")
    for step in (
        f"python -m pip install -e {folder}",
        f"medkit plugins check {name}",
        f"medkit train SET --label LABEL --plugin softmax --plugin {name}",
    ):
        say(f"    {step}")
    say("Its licence is Apache-2.0, as medkit's; pyproject.toml is where you choose another.")
