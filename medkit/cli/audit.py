"""``medkit audit``: what is wrong with the images, found before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from medkit.cli.options import (
    HERE,
    ClassesOption,
    FoldsByOption,
    FoldsFromOption,
    FoldsOption,
    HoldOutOption,
    JsonOption,
    LabelOption,
    MinPersonsOption,
    SeedOption,
    SeparatorOption,
    SetArgument,
    StratifyOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds
    from medkit.cohort.preparation import Prepared

app = typer.Typer(
    no_args_is_help=True, help="What is wrong with the images, found before training."
)

_SHOWN = 10  # pairs of pictures on the screen; all are on the page


@app.command()
def leaks(
    set_name: SetArgument,
    label: LabelOption,
    separator: SeparatorOption = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    min_persons: MinPersonsOption = None,
    classes: ClassesOption = None,
    hold_out: HoldOutOption = 0.0,
    stratify: StratifyOption = None,
    folds_by: FoldsByOption = None,
    folds_from: FoldsFromOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make the folds of a set, and find what stands on both sides of them.

    Pictures of two persons that are nearly the same are put side by side in audits/KEY.html.
    """
    from medkit.cohort.leaks import check_leaks
    from medkit.cohort.preparation import prepare_folds, split_classes
    from medkit.cohort.split import Split
    from medkit.evaluation.pairs import write_pairs
    from medkit.workspace import Workspace

    home = Workspace(workspace)
    with home.lock(), show_progress(f"audit {set_name}") as progress:
        chosen = split_classes(classes)
        split = Split(hold_out, tuple(stratify or ()), folds_by, folds_from)
        task = (set_name, label, folds, seed, min_persons, chosen, split)
        prepared = prepare_folds(home, *task, progress, separator=separator)
        page = write_pairs(prepared, home.audits / f"{prepared.folds.key}.html")
    if as_json:
        print_json({**prepared.describe(), "page": page and str(page)})
    else:
        _print_folds(prepared)
        if page is not None:
            say(f"Pictures that are nearly the same are side by side in {page}")
    check_leaks(prepared.leaks)


@app.command()
def shortcuts(
    set_name: SetArgument,
    label: LabelOption,
    separator: SeparatorOption = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    min_persons: MinPersonsOption = None,
    classes: ClassesOption = None,
    hold_out: HoldOutOption = 0.0,
    stratify: StratifyOption = None,
    folds_by: FoldsByOption = None,
    folds_from: FoldsFromOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Find what a label can be told by without looking: scanner, file, date, border.

    Give the options of 'train', so that its report says at the top what is found here.
    """
    from medkit.cohort.preparation import find_shortcuts, prepare_folds, split_classes
    from medkit.cohort.split import Split
    from medkit.workspace import Workspace

    home = Workspace(workspace)
    with home.lock(), show_progress(f"audit {set_name}") as progress:
        chosen = split_classes(classes)
        split = Split(hold_out, tuple(stratify or ()), folds_by, folds_from)
        task = (set_name, label, folds, seed, min_persons, chosen, split)
        made = prepare_folds(home, *task, progress, separator=separator)
        prepared = find_shortcuts(home, made, progress)
    if as_json:
        print_json({"key": prepared.folds.key, **(prepared.leaks.shortcuts or {})})
    else:
        _print_shortcuts(prepared.leaks.shortcuts or {})


def _print_shortcuts(found: Mapping[str, Any]) -> None:
    for one in found.get("by_label") or [found]:
        _print_label(one)
    say(found["verdict"])


def _print_label(found: Mapping[str, Any]) -> None:
    together = found["fields"]
    rows = [("all that is known", together)] if together else []
    rows += [(one["field"], one) for one in (together["strongest"] if together else ())]
    rows += [(f"pixels: {one['view']}", one) for one in found["pixels"]]
    print_table(
        f"What tells {found['label']}, without looking",
        ("by", "AUC", "from", "to", "well above chance"),
        [(name, *_spell(one["auc"]), _SAID[one["above_chance"]]) for name, one in rows],
        note=f"{found['images']} images of {found['persons']} persons; intervals are corrected "
        f"for {found['tried']} looks",
    )


_SAID = {True: "yes", False: "no"}


def _spell(auc: Mapping[str, float]) -> list[str]:
    return [f"{auc[name]:.3f}" for name in ("value", "low", "high")]


def _describe_held_out(folds: Folds) -> list[dict[str, Any]]:
    held = folds.describe_held_out()
    return [{**held, "name": "held out"}] if held else []


def _print_folds(prepared: Prepared) -> None:
    folds, cohort, leaks = prepared.folds, prepared.cohort, prepared.leaks
    rows = [
        (fold["name"], fold["persons"], fold["images"], *fold["classes"].values())
        for fold in [*folds.describe(), *_describe_held_out(folds)]
    ]
    print_table(
        f"Folds of {folds.set_name} by {folds.label}",
        ("fold", "persons", "images", *folds.classes),
        rows,
        note=f"{leaks.images} images; folds {folds.key}",
    )
    if cohort.dropped:
        print_table("Set aside", ("reason", "images"), list(cohort.dropped.items()))
    if cohort.small_classes:
        print_table("Classes set aside", ("class", "persons"), list(cohort.small_classes.items()))
    found = [("leak", finding) for finding in leaks.exact]
    found += [("to see", finding) for finding in leaks.listed]
    if found:
        print_table(
            "Found",
            ("", "what", "how many", "images", "such as"),
            [(kind, f.meaning, f.count, f.images, f.examples[0]["paths"][0]) for kind, f in found],
        )
    near = leaks.near or {"count": 0}
    if near["count"]:
        pairs = [(p["distance"], p["how"], *p["paths"]) for p in near["pairs"][:_SHOWN]]
        print_table(
            "Nearly the same picture, of two persons",
            ("distance", "second one", "one", "other"),
            pairs,
            note=f"{near['count']} pairs; a person must judge them",
        )
    if leaks.ok:
        say("No person, study or picture is in two folds.")
