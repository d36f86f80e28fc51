"""``medkit plugins``: which trainers are installed, and what their options are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from medkit.cli.options import JsonOption
from medkit.cli.terminal import explain, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Trainers that are installed, and their options.")


@app.command("list")
def list_plugins(as_json: JsonOption = False) -> None:
    """List the installed trainers; none of them is imported."""
    from medkit.plugins import find_conflicts, list_trainers

    entries = list_trainers()
    conflicts = find_conflicts(entries)
    if as_json:
        print_json({"trainers": [asdict(entry) for entry in entries], "conflicts": conflicts})
    else:
        print_table(
            "Trainers",
            ("name", "distribution", "version", "summary"),
            [(entry.name, entry.distribution, entry.version, entry.summary) for entry in entries],
            note="" if entries else "None is installed; pip install one, such as medkit-softmax.",
        )
    for conflict in conflicts:
        explain(conflict)
    if conflicts:
        raise typer.Exit(1)


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="The trainer's name.")], as_json: JsonOption = False
) -> None:
    """Show what a trainer does and its options for 'medkit train -p'; imports it alone."""
    from medkit.plugins import find_trainer, load_trainer
    from medkit.training.params import list_options

    if as_json:
        trainer = load_trainer(name)
        described = {**asdict(find_trainer(name)), "tasks": sorted(trainer.tasks)}
        options = [asdict(option) for option in list_options(trainer.Params)]
        print_json({**described, "options": options})
        return
    print_options(name)


def print_options(name: str) -> None:
    """Print the options of a trainer as a table; imports it alone."""
    from medkit.plugins import find_trainer, load_trainer
    from medkit.training.params import list_options

    entry, trainer = find_trainer(name), load_trainer(name)
    print_table(
        f"{name} ({entry.origin}): {', '.join(sorted(trainer.tasks))}",
        ("-p", "takes", "default", "what it does"),
        [
            (one.name, one.takes, one.default or "", one.help)
            for one in list_options(trainer.Params)
        ],
        note="An option without a default must be given.",
    )
