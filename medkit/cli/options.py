"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "-w",
        "--workspace",
        envvar="MEDKIT_WORKSPACE",
        help="The folder that holds everything medkit makes.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help="'local', or 'dask://host:port' for Dask workers.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes to use; by default the processors at hand."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Everything random follows from it.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, gpu or gpu:N.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Pinned and recorded; by default the processors at hand."
    ),
]

HERE = Path()
