"""``medkit train``: cross-validate trainers on a set.

Start reading the code here, and follow `medkit.training.run.train`: it has the folds made, starts
child processes that fit them (`medkit.training.worker`), and measures what they predict.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from medkit.cli.metrics import print_metrics, print_repeats
from medkit.cli.options import (
    HERE,
    ClassesOption,
    DeviceOption,
    EngineOption,
    FoldsByOption,
    FoldsFromOption,
    FoldsOption,
    HoldOutOption,
    JsonOption,
    MinPersonsOption,
    NoSaliencyOption,
    SeedOption,
    SeparatorOption,
    StratifyOption,
    ThreadsOption,
    WorkspaceOption,
)
from medkit.cli.plugins import print_options
from medkit.cli.terminal import print_json, print_table, say, show_training
from medkit.errors import UsageError
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.training.run import Finished

# Starts or goes on with a run, given what is told of it while it goes on.
Start = Callable[[dict[str, Any]], "Finished"]
# Where a record has what was asked, by the name of the argument.
_RECORDED = {
    **{"set_name": "set", "label": "label", "folds": "k", "seed": "seed"},
    **{"positive": "positive", "device": "device", "threads": "threads"},
    **{"separator": "separator"},
    **{"aggregate": "aggregate", "refits": "refits", "metric_plugins": "metric_plugins"},
}
# What may be given beside --resume: it has no influence on the result.
_HOW = {"resume", "engine", "child_per_fold", "logs", "no_saliency", "workspace", "as_json"}


class TrainCommand(TyperCommand):
    """Its help has the options of the trainers that are named beside it, in any order."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep which trainers are named: help is asked for before options are read."""
        ctx.meta["medkit.plugins"] = list(_find_plugins(args))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, and the options of the trainers."""
        super().format_help(ctx, formatter)
        for plugin in ctx.meta["medkit.plugins"]:
            print_options(plugin)


def _find_plugins(arguments: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(arguments):
        if argument.startswith("--plugin="):
            yield argument.partition("=")[2]
        elif argument == "--plugin":
            yield from arguments[number + 1 : number + 2]


def train(
    ctx: typer.Context,
    set_name: Annotated[
        str | None, typer.Argument(metavar="SET", help="Name of a set.", show_default=False)
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            help="A trainer: see 'medkit plugins list'. May be repeated; with --help, its options.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            help="Name of a label of the catalog; several that may stand together, with commas "
            "between, are predicted each by itself.",
        ),
    ] = None,
    separator: SeparatorOption = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="KEY=VALUE",
            help="Of the trainers, or PLUGIN.KEY=VALUE of one: 'medkit train --plugin X --help'.",
        ),
    ] = None,
    classes: ClassesOption = None,
    min_persons: MinPersonsOption = None,
    hold_out: HoldOutOption = 0.0,
    stratify: StratifyOption = None,
    folds_by: FoldsByOption = None,
    folds_from: FoldsFromOption = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", min=1, help="Cross-validate so often, with this seed and those after it."
        ),
    ] = 1,
    positive: Annotated[
        str | None, typer.Option("--positive", help="Of two classes, the one to be sensitive to.")
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            "--validation", min=0.0, max=0.5, help="Share of a training part to choose by."
        ),
    ] = 0.15,
    aggregate: Annotated[
        str,
        typer.Option(
            "--aggregate",
            help="How images are joined to series, studies and persons: mean, geometric, median, "
            "vote, or of two classes max (any image is positive).",
        ),
    ] = "mean",
    metric_plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="PLUGIN",
            help="A plugin whose metrics are measured beside medkit's own. May be repeated.",
        ),
    ] = None,
    refits: Annotated[
        int,
        typer.Option(
            "--procedure-interval",
            metavar="N",
            min=0,
            help="Find the procedure's own interval by refits that leave out two folds at a time, "
            "of N divisions into folds, 2 or more; what it costs is said at the start. With 0 it "
            "is estimated without refits, and wider than need be.",
        ),
    ] = 0,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the run; with several trainers, its beginning.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="RUN", help="Go on with this run; nothing else need be given."
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = "local",
    child_per_fold: Annotated[
        bool, typer.Option("--child-per-fold", help="Fit every fold in a process of its own.")
    ] = False,
    logs: Annotated[
        list[str] | None,
        typer.Option("--log", help="Also write to: tensorboard, mlflow. May be repeated."),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train in spite of leaks; the report says so.")
    ] = False,
    no_saliency: NoSaliencyOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Cross-validate trainers by person, and write what came of it to reports.

    The same command goes on where an earlier one was stopped, and so does --resume RUN.
    """
    from medkit.cohort.preparation import split_classes
    from medkit.cohort.split import Split
    from medkit.plugins import load_trainer
    from medkit.training import run
    from medkit.training.params import assign_options
    from medkit.training.record import read_run

    home = Workspace(workspace)
    how: dict[str, Any] = {"engine": engine, "child_per_fold": child_per_fold, "logs": logs or []}
    if resume is not None:
        with home.lock():
            _check_resumed(ctx, read_run(home, resume))
            starts = {(resume, 0): lambda live: run.resume(home, resume, **how, **live)}
            _go(home, None, starts, not no_saliency, as_json)
        return
    if set_name is None or not plugins or label is None:
        raise UsageError("train needs SET, --plugin and --label; or --resume RUN to go on with one")
    known = {plugin: load_trainer(plugin).Params for plugin in plugins}
    split = Split(hold_out, tuple(stratify or ()), folds_by, folds_from)

    def start(plugin: str, number: int, given: Mapping[str, str]) -> Start:
        return lambda live: run.train(
            home,
            set_name,
            plugin,
            label=label,
            options=given,
            folds=folds,
            seed=seed + max(number - 1, 0),
            classes=split_classes(classes),
            min_persons=min_persons,
            split=split,
            positive=positive,
            separator=separator,
            validation_share=validation,
            aggregate=aggregate,
            metric_plugins=metric_plugins or (),
            refits=refits,
            name=_name_run(name, plugin * (len(known) > 1), number),
            device=device,
            threads=threads,
            allow_leaks=allow_leaks,
            command=["medkit", *sys.argv[1:]],
            **how,
            **live,
        )

    assigned = assign_options(options or [], known)
    starts = {
        (plugin, number): start(plugin, number, assigned[plugin])
        for number in (range(1, repeats + 1) if repeats > 1 else [0])
        for plugin in assigned
    }
    with home.lock():
        _go(home, name, starts, not no_saliency, as_json)


def _name_run(name: str | None, plugin: str, number: int) -> str | None:
    """Return the name that a run was given, told from the others of the same command."""
    parts = (name, plugin, f"r{number}" if number else "")
    return "-".join(part for part in parts if part) if name else None


def _go(
    home: Workspace,
    name: str | None,
    starts: Mapping[tuple[str, int], Start],
    saliency: bool,
    as_json: bool,
) -> None:
    """Train one after the other, and write a report of each, of those on the same folds, and of
    repeats.
    """
    from medkit.evaluation.report import choose_path, write_page

    finished: dict[tuple[str, int], Finished] = {}
    for (title, number), start in starts.items():
        with show_training(title) as (progress, watch):
            done = start({"progress": progress, "watch": watch})
        finished[title, number] = done
        page = choose_path([done.name], None, home)
        write_page([done.folder], page, home, saliency=saliency)
    pages = [choose_path([one.name], None, home) for one in finished.values()]
    for number in {number: None for _, number in starts}:
        beside = [done for (_, other), done in finished.items() if other == number]
        if len(beside) > 1:
            pages.append(
                choose_path([one.name for one in beside], _name_run(name, "", number), home)
            )
            write_page([one.folder for one in beside], pages[-1], home, saliency=saliency)
    _print(list(finished.values()), _summarise(home, finished), pages, as_json)


def _summarise(
    home: Workspace, finished: Mapping[tuple[str, int], Finished]
) -> list[dict[str, Any]]:
    """Write what the repeats of each trainer say together; nothing of one."""
    from medkit.evaluation.repeats import write_repeats

    by_plugin: dict[str, list[str]] = {}
    for (plugin, _), done in finished.items():
        by_plugin.setdefault(plugin, []).append(done.name)
    return [write_repeats(names, home) for names in by_plugin.values() if len(names) > 1]


def _check_resumed(ctx: typer.Context, record: Mapping[str, Any]) -> None:
    """Raise if an argument beside ``--resume`` is another than the run was started with."""
    typed = (name for name in ctx.params if _is_typed(ctx, name) and name not in _HOW)
    for name in typed:
        value = ctx.params[name]
        known = [record["plugin"]] if name == "plugins" else record.get(_RECORDED.get(name, ""))
        if name != "plugins" and name not in _RECORDED:
            raise UsageError(
                f"--resume takes {name.replace('_', ' ')} from the run, as all that decides on its "
                "result; leave it away, or start another run without --resume"
            )
        if value != known:
            raise UsageError(
                f"{name.replace('_', ' ')} {value!r} contradicts the run {record['name']!r}, which "
                f"has {known!r}; leave it away, or start another run without --resume"
            )


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _print(
    finished: Sequence[Finished],
    repeats: Sequence[Mapping[str, Any]],
    pages: Sequence[Path],
    as_json: bool,
) -> None:
    if as_json:
        runs = [
            {"run": one.name, "metrics": one.metrics, "repeated": one.repeated} for one in finished
        ]
        told = {"repeats": list(repeats)} if repeats else {}
        print_json({"runs": runs, "reports": [str(page) for page in pages], **told})
        return
    for one in finished:
        if one.repeated:
            say(f"the run {one.name} was done before, with these arguments: nothing was to do")
        print_metrics(f"{one.name}, {one.record['k']} folds", one.metrics)
        for text in (*one.record["warnings"], *one.record.get("notes", ())):
            say(f"note: {text}")
    if dropped := finished[0].record["dropped"]:
        print_table("Set aside", ("reason", "images"), list(dropped.items()))
    for summary in repeats:
        print_repeats(summary)
    for page in pages:
        say(f"the report is in {page}")
