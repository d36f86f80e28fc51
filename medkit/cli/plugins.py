"""``medkit plugins``: which plugins are installed, and what options trainers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medkit.cli import check, management, new
from medkit.cli.check import check_plugin
from medkit.cli.options import JsonOption
from medkit.cli.terminal import explain, print_json, print_table

if TYPE_CHECKING:
    from medkit.plugins import Plugin

app = typer.Typer(no_args_is_help=True, help="Plugins: trainers, and what else others add.")
for _name in ("install", "uninstall", "upgrade", "freeze", "sync"):
    app.command(_name)(getattr(management, _name))
app.command("new")(new.new)
app.command("check")(check.check_plugin)
app.command("check")(check_plugin)


@app.command("list")
def list_plugins(
    check: Annotated[
        bool,
        typer.Option("--check", help="Import each in a process of its own, and say why it fails."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the installed plugins; without --check none of them is imported."""
    from medkit.plugins import find_conflicts, list_plugins

    entries = list_plugins()
    conflicts = find_conflicts(entries)
    found = _check(entries) if check else [None] * len(entries)
    if as_json:
        plugins = [_describe(*both) for both in zip(entries, found, strict=True)]
        print_json({"plugins": plugins, "conflicts": conflicts})
    else:
        _print_plugins(entries, found)
    for conflict in conflicts:
        explain(conflict)
    if conflicts or any(found):
        raise typer.Exit(1)


def _check(entries: Sequence[Plugin]) -> list[str]:
    from medkit.plugins.management import check_plugins

    return check_plugins(entries)


def _describe(entry: Plugin, found: str | None) -> dict[str, Any]:
    names = ("name", "kind", "distribution", "version", "summary", "value", "group", "contract")
    described = {name: getattr(entry, name) for name in names}
    described |= {"isolated": entry.home is not None, "trouble": found or entry.trouble}
    described["environment"] = entry.home.folder if entry.home else None
    return described if found is None else {**described, "works": not found}


def _print_plugins(entries: Sequence[Plugin], found: Sequence[str | None]) -> None:
    columns = ("name", "kind", "distribution", "where", "summary")
    rows = [
        (
            *(entry.name, f"{entry.kind} v{entry.contract}"),
            f"{entry.distribution} {entry.version}",
            "isolated" if entry.home else "here",
            entry.trouble or entry.summary,
            *(() if why is None else (why or "yes",)),
        )
        for entry, why in zip(entries, found, strict=True)
    ]
    print_table(
        "Plugins",
        (*columns, "works") if any(why is not None for why in found) else columns,
        rows,
        note="" if entries else "None is installed: 'medkit plugins install medkit-softmax'.",
    )


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="The trainer's name.")], as_json: JsonOption = False
) -> None:
    """Show what a trainer does and its options for 'medkit train -p'; imports it alone."""
    from medkit.plugins import find_plugin, load_trainer
    from medkit.training.params import list_options

    if as_json:
        trainer = load_trainer(name)
        about = _describe(find_plugin("trainer", name), None)
        described = {**about, "tasks": sorted(trainer.tasks)}
        options = [asdict(option) for option in list_options(trainer.Params)]
        print_json({**described, "options": options})
        return
    print_options(name)


def print_options(name: str) -> None:
    """Print the options of a trainer as a table; imports it alone."""
    from medkit.plugins import find_plugin, load_trainer
    from medkit.training.params import list_options

    entry, trainer = find_plugin("trainer", name), load_trainer(name)
    print_table(
        f"{name} ({entry.origin}): {', '.join(sorted(trainer.tasks))}",
        ("-p", "takes", "default", "what it does"),
        [
            (one.name, one.takes, one.default or "", one.help)
            for one in list_options(trainer.Params)
        ],
        note="An option without a default must be given.",
    )
