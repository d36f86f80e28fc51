"""The verb ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medkit.cli.options import HERE, JsonOption, NoSaliencyOption, WorkspaceOption
from medkit.cli.terminal import print_json, say
from medkit.workspace import Workspace


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file to write, instead of one in the workspace."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the page over several runs: reports/NAME.html."),
    ] = None,
    sections: Annotated[
        list[str] | None,
        typer.Option(
            "--section",
            metavar="PLUGIN",
            envvar="MEDKIT_SECTIONS",
            help="A plugin that adds a section to the report of each run. May be repeated.",
        ),
    ] = None,
    no_saliency: NoSaliencyOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write a run's report again, or one page over several runs on the same folds.

    It is one file, which asks for nothing from a network. What the models say of the images shown
    is kept with the run, so that the report is quick when it is written again.
    """
    from medkit.evaluation.report import choose_path, write_page

    home = Workspace(workspace)
    with home.lock():
        path = write_page(
            [home.run(run) for run in runs],
            output or choose_path(runs, name, home),
            home,
            saliency=not no_saliency,
            sections=sections or (),
        )
    if as_json:
        print_json({"report": str(path), "runs": runs})
    else:
        say(f"the report is in {path}")
