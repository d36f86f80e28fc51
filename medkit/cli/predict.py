"""``medkit predict``: a finished run on images without labels."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medkit.cli.options import (
    HERE,
    DeviceOption,
    JsonOption,
    OutsideDomainOption,
    RunArgument,
    ThreadsOption,
    ThresholdOption,
    WorkersOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.errors import UsageError
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.training.application import Applied


def predict(
    run: RunArgument,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="SET | PATH...",
            help="Name of a set, or files and folders of images: DICOM, PNG, JPEG, TIFF, and "
            "what else a catalog can hold.",
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Of the evaluation.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Also write the predictions to a .csv, .json or .parquet file."
        ),
    ] = None,
    threshold: ThresholdOption = "argmax",
    outside_domain: OutsideDomainOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Predict images with a finished run: new files and folders, or a set.

    New images are read and normalised as those of the run were, and predicted by the mean of its
    folds' models; probabilities are calibrated. What cannot be predicted is listed with the
    reason. The same command again reads only what changed.
    """
    from medkit.training import answers, prediction

    home = Workspace(workspace)
    if output is not None:
        answers.choose_form(output)
    known = _find_set(home, targets)
    asked: dict[str, Any] = {
        **{"name": name, "threshold": threshold, "outside_domain": outside_domain},
        **{"device": device, "threads": threads, "command": ["medkit", *sys.argv[1:]]},
    }
    with home.lock(), show_progress(run) as progress:
        if known:
            done = prediction.predict(home, run, known, progress=progress, **asked)
        else:
            done = prediction.predict_paths(
                home, run, targets, workers=workers, progress=progress, **asked
            )
    if output is not None:
        answers.write_predictions(done, output)
    _print(done, output or done.folder / "predictions.parquet", as_json)


def _find_set(home: Workspace, targets: list[str]) -> str | None:
    """Return the set that is meant; None where it is paths.

    Raises
    ------
    UsageError
        If it may be either.
    """
    first, sets = targets[0], home.names("sets")
    if len(targets) > 1:
        return None
    if first not in sets:
        meant = [name for name in sets if Path(first).resolve() == home.set(name).resolve()]
        if not meant and not Path(first).exists() and "://" not in first:
            raise UsageError(
                f"there is no set, file or folder {first!r}; sets here: {', '.join(sets) or 'none'}"
            )
        return meant[0] if meant else None
    if Path(first).exists():
        raise UsageError(
            f"{first!r} is the name of a set, and of a file or folder here; give ./{first} for "
            f"that, or {home.set(first)} for the set"
        )
    return first


def _print(done: Applied, path: Path, as_json: bool) -> None:
    from medkit.statistics.truth import asks_several, find_class

    record, refused = done.record, done.refused
    predicted, several = done.predictions["predicted"], asks_several(record)
    classes = {name: int(find_class(predicted, name, several).sum()) for name in record["classes"]}
    if as_json:
        print_json(
            {
                "evaluation": record,
                "repeated": done.repeated,
                "predictions": str(path),
                "classes": classes,
                "refused": refused.astype(object).where(refused.notna(), None).to_dict("records"),
            }
        )
        return
    counts = record["counts"]
    print_table(
        f"{counts['predicted']:,} of {counts['found']:,} predicted",
        ("predicted", "images"),
        list(classes.items()),
    )
    say(f"decided by: {tell_rule(record)}")
    if counts["refused"]:
        first = refused.drop_duplicates("code").set_index("code")
        print_table(
            f"{len(refused):,} refused",
            ("reason", "images", "such as", "detail"),
            [
                (code, count, first.loc[code, "path"], first.loc[code, "detail"])
                for code, count in counts["refused"].items()
            ],
            note=f"each is named in {done.folder / 'refused.parquet'}",
        )
    if counts["set_aside"]:
        aside = counts["set_aside"]
        print_table(f"{sum(aside.values()):,} set aside", ("reason", "images"), list(aside.items()))
    print_warnings(done)
    say(f"{record['images']} images are predicted in {path}")


def print_warnings(done: Applied) -> None:
    """Print what should be known of the images that were predicted."""
    record = done.record
    if record["warnings"]:
        print_table(
            "Warnings",
            ("unlike what was trained on in", "images"),
            list(record["warnings"].items()),
            note="the predictions' column 'warnings' says how",
        )
    for note in record["notes"]:
        say(f"note: {note}")
    if overlap := record["overlap"]["images"]:
        say(f"{overlap} of these images are of persons or pictures that the run was trained on")
    if record["version"] != record["trained_with"]:
        say(f"note: the plugin was of version {record['trained_with']} when it was trained")
    if done.repeated:
        say("this was done before, with the same images: nothing was to do")


def tell_rule(record: Mapping[str, Any]) -> str:
    """Return how classes were decided, for a person."""
    decision, several = record["decision"], record.get("task") == "multilabel"
    if decision["threshold"] is None:
        return "each label from a probability of 0.5 on" if several else "the most probable class"
    if several:
        cuts = zip(record["classes"], decision["threshold"], strict=True)
        told = ", ".join(f"{name} from {cut:.4g}" for name, cut in cuts)
        return f"probabilities: {told} ({decision['rule']}), as fixed by the run"
    positive = record["positive"] or record["classes"][1]
    return (
        f"{positive} from a probability of {decision['threshold']:.4g} on ({decision['rule']}; out "
        f"of fold: sensitivity {decision['sensitivity']:.3f}, specificity "
        f"{decision['specificity']:.3f}), as fixed by the run"
    )
