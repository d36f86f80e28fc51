"""``medkit export``: a set, or a run's model, in the forms that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medkit.cli.options import (
    HERE,
    JsonOption,
    RunArgument,
    SetArgument,
    ThreadsOption,
    WorkersOption,
    WorkspaceOption,
)
from medkit.cli.terminal import print_json, print_table, say, show_progress
from medkit.workspace import Workspace, check_name

if TYPE_CHECKING:
    from medkit.images.exports.export import Exported
    from medkit.training.exports.export import ExportedModel

app = typer.Typer(no_args_is_help=True)

OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", help="A folder, which appears when everything is in it.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Make it anew, in place of another export.")
]


@app.callback()  # without one, typer would merge a single command into the verb
def export() -> None:
    """What medkit made, in the forms that other tools read."""


@app.command()
def images(
    set_name: SetArgument,
    form: Annotated[
        str,
        typer.Option("--format", help="png, tiff, npz, tfrecord, webdataset or huggingface."),
    ],
    output: OutputFolder,
    window: Annotated[
        str | None,
        typer.Option(
            help="Export what this window shows, as when training: header, full, lung, soft, bone, "
            "brain or CENTRE/WIDTH. Without one, stored codes go out at full depth."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Export the classes of this label, and only images that have one."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Export who is in which fold, and their label: the key that audit or train "
            "printed, or the path of such a file.",
        ),
    ] = None,
    keep_identifiers: Annotated[
        bool,
        typer.Option("--keep-identifiers", help="Keep PatientID, UIDs and StudyDate as well."),
    ] = False,
    replace: ReplaceOption = False,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a set in another form, with metadata and licences.

    Run it again after a break: it goes on where it was.
    """
    from medkit.catalog.store import Catalog
    from medkit.cohort.folds import Folds
    from medkit.images.exports.export import export_images
    from medkit.images.exports.licences import read_terms
    from medkit.images.imageset import ImageSet

    home = Workspace(workspace)
    with home.lock(), show_progress(f"export {set_name}") as progress:
        image_set = ImageSet.open(home.set(set_name))
        stored = Folds.load(_locate(folds, home)) if folds else None
        joined = Catalog.open(home.catalog).labels(label) if label and not folds else None
        done = export_images(
            image_set,
            output.resolve(),
            form,
            terms=read_terms(home, image_set.table["source"]),
            window=window,
            label=label,
            labels=joined,
            folds=stored,
            keep_identifiers=keep_identifiers,
            replace=replace,
            workers=workers,
            progress=progress,
        )
    if as_json:
        from dataclasses import asdict

        print_json({"set": set_name, "output": str(output)} | asdict(done))
    else:
        _print(output, done)


@app.command()
def model(
    run: RunArgument,
    form: Annotated[str, typer.Option("--format", help="savedmodel, onnx or litert.")],
    output: OutputFolder,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold", min=0, metavar="K", help="The model of this fold; by default all averaged."
        ),
    ] = None,
    replace: ReplaceOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a finished run as one model that runs without medkit.

    It is run in its own runtime and compared with the run's models: if a probability differs by
    more than 0.0001 on 256 images, nothing is left.
    """
    from medkit.training.exports.export import export_model

    home = Workspace(workspace)
    with home.lock(), show_progress(f"export {run}") as progress:
        done = export_model(
            home,
            run,
            output.resolve(),
            form,
            fold=fold,
            replace=replace,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print_json({"output": str(output), "built": done.built, "model": dict(done.record)})
    else:
        _print_model(output, done)


def _print_model(output: Path, done: ExportedModel) -> None:
    from medkit.statistics.truth import asks_several

    record, parity = done.record, done.record["parity"]
    if not done.built:
        say(f"{output} is there already, made from the same models in the same form")
    say(
        f"{len(record['folds'])} of the run's models as one, {record['form']}, in {output}: "
        f"{' x '.join(map(str, record['input']['shape'][1:]))} pixels, "
        f"{len(record['classes'])} {'labels' if asks_several(record) else 'classes'}"
    )
    say(
        f"on {parity['images']} images of the run it differs by {parity['largest_difference']:.1e} "
        f"at most; {parity['allowed']:g} is allowed"
    )
    say("README.md in the folder says how to run it.")


def _locate(folds: str, home: Workspace) -> Path:
    path = Path(folds)
    return path if path.is_file() else home.folds / f"{check_name(folds)}.parquet"


def _print(output: Path, done: Exported) -> None:
    if not done.built:
        say(f"{output} is there already, made from the same images in the same form")
    print_table(
        f"{done.images:,} images of the set",
        ("images", "what became of them"),
        [
            *((count, f"exported as {kind}") for kind, count in done.kinds.items()),
            *((count, f"left out: {reason}") for reason, count in done.left_out.items()),
        ],
        note=f"{done.files:,} files, {done.bytes:,} bytes, {done.persons:,} persons"
        + (f"; {done.unknown_persons:,} images of unknown persons" if done.unknown_persons else ""),
    )
    print_table(
        "where they are from",
        ("source", "images", "licence"),
        [(source["source"], source["images"], source["licence"]) for source in done.sources],
    )
    for source in done.sources:
        if source["notice"]:
            say(f"note: {source['source']}: {source['notice']}")
    if done.burned_in:
        say(
            f"note: {done.burned_in:,} images say that text is burned in: it may name somebody; "
            "look at them before you pass them on"
        )
    say("Split by split_group, never by image; README.md in the folder says why.")
