"""``medkit compare``: which of some runs are better, and whether that can be said at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from medkit.cli.options import HERE, JsonOption, WorkspaceOption
from medkit.cli.terminal import print_json, print_table, say
from medkit.workspace import Workspace


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Finished runs on the same folds; of --repeats their common name.",
        ),
    ],
    metric: Annotated[
        str, typer.Option("--metric", help="Any of those in metrics.json, such as auc.")
    ] = "balanced_accuracy",
    draws: Annotated[
        int, typer.Option("--resamples", min=100, help="Of the persons, for the intervals.")
    ] = 2000,
    permutations: Annotated[
        int | None,
        typer.Option(
            "--permutations",
            min=100,
            help="Of each pair, for p; by default 2000, and more of many pairs.",
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Compare finished runs, paired by person: differences, their intervals, and a ranking."""
    from medkit.evaluation.comparison import contrast_runs
    from medkit.evaluation.evidence import read_evidence
    from medkit.evaluation.repeats import find_repeats

    home = Workspace(workspace)
    every = [one for run in runs for one in find_repeats(run, home)]
    evidence = [read_evidence(home.run(run), home) for run in every]
    found = contrast_runs(evidence, metric, draws=draws, permutations=permutations)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Mapping[str, Any]) -> None:
    """Print the ranking, then the pairs by the numbers that runs have in it: names are long."""
    metric = found["metric"].replace("_", " ")
    values = {row["run"]: row for row in found["rows"]}
    order = [(tier, run) for tier, runs in enumerate(found["ranking"], 1) for run in runs]
    numbers = {run: number for number, (_, run) in enumerate(order, 1)}
    print_table(
        f"Ranking by {metric}",
        ("no.", "tier", "run", "value", "low", "high"),
        [
            (numbers[run], tier, run, *_spell(values[run], ("value", "low", "high")))
            for tier, run in order
        ],
    )
    print_table(
        f"Differences in {metric}",
        ("pair", "difference", "low", "high", "p", "p corrected", "separable"),
        [
            (
                f"{numbers[pair['first']]} − {numbers[pair['second']]}",
                *_spell(pair, ("difference", "low", "high"), "+.3f"),
                *_spell(pair, ("p", "p_corrected"), ".4f"),
                "yes" if pair["separable"] else "no",
            )
            for pair in found["pairs"]
        ],
        note=found["method"],
    )
    say(tell_ranking(found["ranking"]))


def tell_ranking(ranking: list[list[str]]) -> str:
    """Return what a ranking says, in a sentence."""
    if len(ranking) == 1:
        return "Not separable: none of these runs was shown to be better than all that follow it."
    best = ranking[0]
    if len(best) == 1:
        return f"{best[0]} is better than all others."
    return f"Not separable from one another, but better than all others: {', '.join(best)}."


def _spell(entry: Mapping[str, Any], parts: Sequence[str], how: str = ".3f") -> list[str]:
    return ["" if entry[part] is None else format(entry[part], how) for part in parts]
