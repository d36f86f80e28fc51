"""A finished run on other images, model and threshold locked.

`evaluate` measures it on a set with labels, `open_held_out` on what its folds held out, `predict`
predicts a set, and `predict_paths` files and folders that no catalog knows yet. What each leaves
is listed in `application`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medkit.catalog.store import Catalog
from medkit.cohort.folds import Folds
from medkit.cohort.joining import join_labels
from medkit.cohort.openings import Opening, record_opening
from medkit.cohort.questions import Question, choose_findings, read_answers
from medkit.engine import Progress, silent
from medkit.errors import CohortError, ImageSetError, UsageError
from medkit.images.imageset import ImageSet
from medkit.statistics.thresholds import ARGMAX
from medkit.statistics.truth import asks_several, spell_findings, split_findings
from medkit.training.application import Applied as Applied  # what is returned is part of the face
from medkit.training.application import Material, Order, apply, open_run
from medkit.training.decision import make_decision
from medkit.training.domain import open_catalog
from medkit.training.environment import choose_environment
from medkit.training.intake import REFUSED, find_places, spell_places, take_in
from medkit.workspace import Workspace, check_name, hash_json

_NONE_REFUSED = pd.DataFrame(columns=REFUSED).astype({"frame": "Int64"})


def evaluate(
    workspace: Workspace,
    run_name: str,
    set_name: str,
    *,
    label: str,
    separator: str | None = None,
    name: str | None = None,
    threshold: str = ARGMAX,
    allow_overlap: bool = False,
    outside_domain: bool = False,
    device: str = "auto",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Applied:
    """Measure a finished run on another set, whose labels stand in the catalog.

    Model, classes, calibration and threshold are those of the run: nothing is fitted. Images of a
    class that the run does not know are set aside and counted.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    run_name, set_name, label : str
        Names of a run, of an ImageSet, and of a label of the catalog; of a run of several labels
        as of `medkit.training.run.train`.
    separator : str, optional
        Of the values of the label, by default the run's, where it has one.
    name : str, optional
        Of the evaluation; made from the arguments by default.
    threshold : str
        ``"argmax"``: the most probable class. For two classes also ``"youden"``, a probability,
        ``"sensitivity=0.95"`` or ``"specificity=0.9"``, found on the run's own out-of-fold
        predictions (`medkit.statistics.thresholds.choose_point`).
    allow_overlap : bool
        Measure although the run was trained on some of these persons or pictures; recorded.
    outside_domain : bool
        Predict also images unlike those that the run was trained on (`domain`); recorded.
    device, threads
        As `choose_environment` takes them.
    command : sequence of str
        What the user typed, for the record.

    Raises
    ------
    UsageError
        If the run is not finished, or the name belongs to another evaluation.
    CohortError
        If the run was trained on persons or pictures of this set or holds some of it out, or none
        of it can be measured.
    ImageSetError
        If a byte of the set is not as it was written.
    TrainingError
        If a model is damaged, or the child process failed.
    """
    run, image_set = open_run(workspace, run_name), ImageSet.open(workspace.set(set_name))
    catalog = Catalog.open(workspace.catalog)
    table, dropped = _join_known(image_set, catalog, Question(label, separator), run)
    overlap = _count_overlap(workspace.run(run_name), table)
    if overlap["images"] and not allow_overlap:
        raise CohortError(
            f"the run {run_name!r} was trained on {overlap['persons']} persons of {set_name!r} "
            f"({overlap['images']} of {len(table)} images), so a number on them would flatter; "
            "evaluate it on other persons, or use --allow-overlap, which is recorded"
        )
    _refuse_held_out(workspace, run, table)
    facts: dict[str, Any] = {"label": label, "dropped": dropped, "command": list(command)}
    facts |= _describe_set(image_set, table)
    order = _make_order(workspace, run, threshold, outside_domain, (device, threads), facts)
    material = Material(image_set, _locate(table), catalog, _NONE_REFUSED, dropped, overlap)
    return apply(order, name, lambda _: material, progress)


def open_held_out(
    workspace: Workspace,
    run_names: Sequence[str],
    *,
    threshold: str = ARGMAX,
    again: bool = False,
    outside_domain: bool = False,
    device: str = "auto",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> tuple[Opening, list[Applied]]:
    """Measure finished runs on what their folds held out: once, and written down before.

    Parameters
    ----------
    run_names : sequence of str
        Runs that hold out the same images; all of them are one opening.
    again : bool
        Open it although persons of it were looked at before; recorded.

    The others are those of `evaluate`.

    Raises
    ------
    UsageError
        If a run holds nothing out, the runs do not hold out the same, or it was opened before;
        also as `evaluate`.
    WorkspaceError
        If the ledger is not what was written.
    ImageSetError, TrainingError
        As `evaluate`; an opening that ended so goes on when the same is asked again.
    """
    runs = [open_run(workspace, name) for name in run_names]
    folds = _load_held_out(workspace, runs)
    image_set, table = _take_held_out(workspace, folds)
    facts = {"label": folds.label, "dropped": {}, "command": list(command)}
    facts |= _describe_set(image_set, table) | {"on": "held-out", "held_out": folds.held_out_id}
    orders = [
        _make_order(workspace, run, threshold, outside_domain, (device, threads), facts)
        for run in runs
    ]
    opening = record_opening(workspace, _describe_opening(folds, orders, command), again=again)
    catalog = open_catalog(workspace.catalog)

    def measure(order: Order) -> Applied:
        overlap = _count_overlap(order.folder, table)
        material = Material(image_set, table, catalog, _NONE_REFUSED, {}, overlap)
        return apply(order, None, lambda _: material, progress)

    return opening, [measure(order) for order in orders]


def _make_order(
    workspace: Workspace,
    run: Mapping[str, Any],
    threshold: str,
    outside: bool,
    machine: tuple[str, int | None],
    facts: dict[str, Any],
) -> Order:
    """Return how a run is applied on a device with so many threads, its threshold found."""
    decision = make_decision(workspace.run(run["name"]), run, threshold)
    environment = choose_environment(*machine, plugin=run["plugin"])
    return Order(workspace, run, environment, decision, outside, facts)


def _take_held_out(workspace: Workspace, folds: Folds) -> tuple[ImageSet, pd.DataFrame]:
    """Return the set and its rows that folds hold out, with their labels."""
    image_set = ImageSet.open(workspace.set(folds.set_name))
    if image_set.id != folds.set_id:
        raise ImageSetError(
            f"the set {folds.set_name!r} was made anew, or has grown, since images of it were "
            "held out; bring back the set as it was"
        )
    chosen = folds.held_out[["image", "label"]]
    return image_set, _locate(image_set.table.merge(chosen, on="image", validate="1:1"))


def _load_held_out(workspace: Workspace, runs: Sequence[Mapping[str, Any]]) -> Folds:
    """Return the folds of runs that all hold out the same images."""
    for run in runs:
        if not run.get("held_out"):
            raise UsageError(
                f"the run {run['name']!r} holds nothing out; 'medkit train' does with --hold-out "
                "0.2, or with folds that name what is for test"
            )
    if len({run["held_out"]["id"] for run in runs}) > 1:
        found = ", ".join(f"{run['name']} {run['held_out']['id']}" for run in runs)
        raise UsageError(f"these runs do not hold out the same images: {found}; open them apart")
    return Folds.load(workspace.folds / f"{check_name(runs[0]['folds_key'])}.parquet")


def _describe_opening(folds: Folds, orders: Sequence[Order], command: Sequence[str]) -> Opening:
    return Opening(
        held_out=folds.held_out_id,
        set_name=folds.set_name,
        set_id=folds.set_id,
        label=folds.label,
        folds_key=folds.key,
        images=len(folds.held_out),
        persons=tuple(sorted(folds.held_out["split_group"].unique())),
        runs=tuple(
            {"run": order.run["name"], "models": order.describe()["models"]} for order in orders
        ),
        rule=orders[0].decision.rule,
        outside=orders[0].outside,
        command=tuple(command),
    )


def _refuse_held_out(workspace: Workspace, run: Mapping[str, Any], images: pd.DataFrame) -> None:
    """Raise if images are of persons whom a run holds out: a look at them is written down."""
    if not run.get("held_out"):
        return
    persons = _load_held_out(workspace, [run]).held_out["split_group"]
    seen = images["split_group"].isin(persons) | images["person"].isin(persons)
    if seen.any():
        raise CohortError(
            f"the run {run['name']!r} holds out {images.loc[seen, 'split_group'].nunique()} of "
            f"these persons ({seen.sum()} images); 'medkit open {run['name']}' measures it on "
            "whom it holds out, once"
        )


def predict(
    workspace: Workspace,
    run_name: str,
    set_name: str,
    *,
    name: str | None = None,
    threshold: str = ARGMAX,
    outside_domain: bool = False,
    device: str = "auto",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Applied:
    """Predict every image of a set with a finished run; as `evaluate`, without labels.

    How many of the images are of persons or pictures that the run was trained on is recorded:
    of these it is surer than of others.
    """
    run, image_set = open_run(workspace, run_name), ImageSet.open(workspace.set(set_name))
    overlap = _count_overlap(workspace.run(run_name), image_set.table)
    facts: dict[str, Any] = {"label": None, "dropped": {}, "command": list(command)}
    facts |= _describe_set(image_set, image_set.table)
    order = _make_order(workspace, run, threshold, outside_domain, (device, threads), facts)
    catalog = open_catalog(workspace.catalog)
    located = _locate(image_set.table)
    material = Material(image_set, located, catalog, _NONE_REFUSED, {}, overlap)
    return apply(order, name, lambda _: material, progress)


def predict_paths(
    workspace: Workspace,
    run_name: str,
    paths: Sequence[str | Path],
    *,
    name: str | None = None,
    threshold: str = ARGMAX,
    outside_domain: bool = False,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Applied:
    """Predict new images with a finished run, normalised as those of the run were.

    The catalog of the workspace is not touched. Given again, only what changed is read again, and
    nothing is predicted where nothing changed.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders of whatever a catalog can hold.
    outside_domain : bool
        Predict also images unlike those that the run was trained on, and those that the SQL
        condition of its recipe leaves out; recorded.
    workers : int, optional
        Processes that read; see `medkit.engine.map_items`.

    The others are those of `evaluate`.

    Raises
    ------
    UsageError
        If a path is not there, or nothing can be predicted; also as `evaluate`.
    TrainingError
        As `evaluate`.
    """
    run, places = open_run(workspace, run_name), find_places(paths, workspace)
    facts: dict[str, Any] = {
        **{"label": None, "dropped": {}, "command": list(command)},
        **{"on": "images", "set": None, "set_id": None, "cohort": None, "paths": places},
    }
    order = _make_order(workspace, run, threshold, outside_domain, (device, threads), facts)

    def gather(folder: Path) -> Material:
        taken = take_in(
            folder / "intake",
            places,
            run["recipe"],
            workspace,
            outside=outside_domain,
            workers=workers,
            progress=progress,
        )
        overlap = _count_overlap(order.folder, taken.image_set.table)
        return Material(**taken._asdict(), table=taken.image_set.table, overlap=overlap)

    return apply(order, name, gather, progress)


def _describe_set(image_set: ImageSet, table: pd.DataFrame) -> dict[str, Any]:
    return {
        "on": image_set.name,
        "set": image_set.name,
        "set_id": image_set.id,
        "cohort": hash_json(table.filter(["image", "label"]).to_numpy().tolist()),
        "paths": None,
    }


def _locate(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(path=spell_places(table))


def _join_known(
    image_set: ImageSet, catalog: Catalog, question: Question, run: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the set's rows with a label that the run knows, and what was set aside."""
    if asks_several(run):
        return _join_several(image_set, catalog, question, run)
    labels = read_answers(catalog, question)
    cohort = join_labels(image_set.table, labels)
    known = cohort.table["label"].isin(run["classes"])
    if not known.any():
        raise CohortError(
            f"no image of {image_set.name!r} has a class that the run knows: "
            f"{', '.join(run['classes'])}"
        )
    dropped = dict(cohort.dropped)
    if not known.all():
        dropped["class unknown to the run"] = int((~known).sum())
    chosen = cohort.table.loc[known, ["image", "label"]]
    return image_set.table.merge(chosen, on="image", validate="1:1"), dropped


def _join_several(
    image_set: ImageSet, catalog: Catalog, question: Question, run: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the same of several labels: those that are not asked about are not known."""
    if len(question.names) == 1 and question.separator is None:
        question = question._replace(separator=run.get("separator"))
    if not question.several:
        raise UsageError(
            f"the run {run['name']!r} predicts several labels, {', '.join(run['classes'])}; give "
            "--label with those that the catalog has, commas between, or --separator"
        )
    labels = read_answers(catalog, question, run["classes"])
    asked = {*(run["classes"] if question.separator else question.names)}
    unknown = {*run["classes"]} - asked

    def spell(text: str) -> str:
        present, doubted = split_findings(text)
        return spell_findings(present - unknown, doubted | unknown)

    kinds = {text: spell(text) for text in labels["value"].unique()}
    labels = labels.assign(value=choose_findings(labels["value"].map(kinds), run["classes"]))
    cohort = join_labels(image_set.table, labels.dropna(subset=["value"]))
    chosen = cohort.table[["image", "label"]]
    return image_set.table.merge(chosen, on="image", validate="1:1"), dict(cohort.dropped)


def _count_overlap(run: Path, images: pd.DataFrame) -> dict[str, int]:
    """Count the images of persons or pictures that the run was trained on, and their persons."""
    trained = pd.read_parquet(run / "cohort.parquet")
    pictures = trained[~trained["constant"].astype(bool)]
    known = _is_among(images, trained, "person", "split_group")
    # With them are those whom pictures that came later have joined with them.
    seen = known | images["split_group"].isin(images.loc[known, "split_group"].dropna())
    seen |= _is_among(images, pictures, "source_sha256", "pixels_sha256")
    return {"images": int(seen.sum()), "persons": int(images.loc[seen, "split_group"].nunique())}


def _is_among(images: pd.DataFrame, others: pd.DataFrame, *columns: str) -> pd.Series[bool]:
    """Say which images have a value of one of these columns in common with any of the others."""
    common = {column: images[column].isin(others[column].dropna()) for column in columns}
    return pd.DataFrame(common, dtype=bool).any(axis=1)
