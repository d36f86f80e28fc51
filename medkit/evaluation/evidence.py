"""What a run left behind, read for a page, and what in it could make the number wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medkit.cohort.openings import Opening, read_openings
from medkit.errors import MedkitError, UsageError, WorkspaceError
from medkit.statistics.intervals import FEW_PERSONS
from medkit.statistics.truth import asks_several
from medkit.workspace import Workspace, check_name, read_json

if TYPE_CHECKING:
    from medkit.images.imageset import ImageSet

# Resampling few clusters gives intervals that are too narrow: Cameron, Gelbach and Miller,
# Review of Economics and Statistics 90 (2008) 414, on 5 to 30 clusters.
FEW_PERSONS_OF_A_CLASS = 10


@dataclass(frozen=True)
class Evidence:
    """A run folder, read once.

    Attributes
    ----------
    folder : Path
    run : mapping
        ``run.json``.
    metrics : mapping or None
        ``metrics.json``; None where the run has none.
    predictions : DataFrame or None
        A row an image that was predicted out of fold.
    folds : DataFrame or None
        ``image, split_group, label, fold`` of every image that was dealt out.
    image_set : ImageSet or None
        The set that the run was made from; None where it is no longer there.
    no_set : str
        Why ``image_set`` is None.
    calibration : mapping or None
        ``calibration.json``: the temperature, and what it does.
    audit : mapping
        What was found between the folds: ``audits/KEY.json``, or what the run recorded of it.
    evaluations : sequence of mapping
        Of the same models on other images: ``evaluation.json``, with its ``metrics``.
    openings : sequence of Opening
        Of the persons that the run holds out, first to last.
    """

    folder: Path
    run: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    predictions: pd.DataFrame | None
    folds: pd.DataFrame | None
    image_set: ImageSet | None
    no_set: str
    calibration: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    openings: Sequence[Opening] = ()

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.folder.name

    @property
    def classes(self) -> list[str]:
        """Sorted names of the classes."""
        return list(self.run["classes"])

    @property
    def several(self) -> bool:
        """Whether an image has several labels: each class is then a question of its own."""
        return asks_several(self.run)

    @property
    def positive(self) -> str:
        """Of two classes, the one that sensitivity is about."""
        return str(self.run["positive"] or self.classes[-1])


@dataclass(frozen=True)
class Concern:
    """A sentence that belongs above the number.

    Attributes
    ----------
    serious : bool
        True where the number may be wrong or mean something else than it seems to.
    text : str
        May hold text from files: escape it.
    """

    serious: bool
    text: str


def read_evidence(folder: Path, workspace: Workspace) -> Evidence:
    """Read a run folder and open what it was made from.

    Raises
    ------
    UsageError
        If there is no run in the folder.
    WorkspaceError
        If its JSON files are damaged.
    """
    if not (folder / "run.json").is_file():
        known = ", ".join(workspace.names("runs")) or "none"
        raise UsageError(f"there is no run {folder.name!r} in this workspace; runs here: {known}")
    run = read_json(folder / "run.json")
    image_set, no_set = _open_set(run, workspace)
    key = check_name(run["folds_key"])
    return Evidence(
        folder=folder,
        run=run,
        metrics=_read(folder / "metrics.json"),
        predictions=_read_table(folder / "predictions.parquet"),
        folds=_read_table(workspace.folds / f"{key}.parquet"),
        image_set=image_set,
        no_set=no_set,
        calibration=_read(folder / "calibration.json"),
        audit={**(run["leaks"] or {}), **(_read(workspace.audits / f"{key}.json") or {})},
        evaluations=list(_list_evaluations(run["name"], workspace)),
        openings=_list_openings(run, workspace),
    )


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _list_evaluations(run: str, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Yield the finished evaluations of a run that have labels, and so metrics, by name."""
    for name in sorted(workspace.names("evaluations")):
        folder = workspace.evaluation(name)
        record, metrics = (_read(folder / file) for file in ("evaluation.json", "metrics.json"))
        if record and metrics and (record["run"], record["status"]) == (run, "done"):
            yield {**record, "metrics": metrics}


def _list_openings(run: Mapping[str, Any], workspace: Workspace) -> list[Opening]:
    held_out = run.get("held_out")
    if not held_out:
        return []
    return [one for one in read_openings(workspace) if one.held_out == held_out["id"]]


def _open_set(run: Mapping[str, Any], workspace: Workspace) -> tuple[ImageSet | None, str]:
    from medkit.images.imageset import ImageSet

    try:
        image_set = ImageSet.open(workspace.set(run["set"]))
    except MedkitError as error:
        return None, f"the set {run['set']} cannot be opened: {error}"
    if image_set.id != run["set_id"]:
        return None, f"the set {run['set']} was made anew, or has grown, after this run"
    return image_set, ""


def _read_table(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(path) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{path} is damaged: {error}") from None


def find_concerns(evidence: Evidence) -> list[Concern]:
    """List what a reader must know before the number, serious things first."""
    found = [
        *_doubt_course(evidence.run),
        *_doubt_weights(evidence.run),
        *_doubt_leaks(evidence.run),
        *_doubt_near(evidence.audit),
        *_doubt_shortcuts(evidence.audit),
        *_doubt_openings(evidence.openings),
        *(Concern(True, text) for text in evidence.run["warnings"]),
        *(Concern(False, text) for text in evidence.run.get("notes", ())),
        *(_doubt_persons(evidence.metrics) if evidence.metrics else ()),
        *(_doubt_headline(evidence.metrics) if evidence.metrics else ()),
        *_doubt_dropped(evidence.run),
    ]
    return sorted(found, key=lambda concern: not concern.serious)


def _doubt_course(run: Mapping[str, Any]) -> Iterator[Concern]:
    if run["status"] == "running":
        yield Concern(True, "The run is not finished; the same command goes on with it.")
    for fold in run["folds"]:
        if fold["status"] == "failed":
            yield Concern(True, f"Fold {fold['fold']} failed: {fold['error']}")


def _doubt_weights(run: Mapping[str, Any]) -> Iterator[Concern]:
    if (run["weights"] or {}).get("name") == "none":
        yield Concern(
            True,
            "Random initialisation: the network started without pre-trained weights "
            "(weights=none), so its number says nothing of the pre-trained network.",
        )


def _doubt_leaks(run: Mapping[str, Any]) -> Iterator[Concern]:
    leaks = run["leaks"] or {}
    if leaks.get("exact"):
        yield Concern(
            True,
            "Leaks were allowed, so the number is too good by an unknown amount. On both sides of "
            f"folds stand {_spell_findings(leaks['exact'])}.",
        )
    if leaks.get("listed"):
        found = _spell_findings(leaks["listed"])
        yield Concern(False, f"The audit lists {found}.")


def _doubt_near(audit: Mapping[str, Any]) -> Iterator[Concern]:
    near = audit.get("near") or {}
    if found := near.get("count", len(near.get("pairs") or [])):
        yield Concern(
            True,
            f"{found:,} pairs of nearly the same picture stand in two folds, or under two labels, "
            "as of different persons; if they are the same, the number is too good. The likest "
            "are below.",
        )


def _doubt_shortcuts(audit: Mapping[str, Any]) -> Iterator[Concern]:
    """Say what the images may be teaching besides what they show."""
    shortcuts = audit.get("shortcuts") or {}
    every = shortcuts.get("by_label") or [shortcuts]
    fields = [one.get("fields") or {} for one in every]
    told = [one for part in fields for one in (part, *(part.get("strongest") or []))]
    pixels = [look for one in every for look in one.get("pixels") or []]
    looks = {one["view"] for one in pixels if one["above_chance"]}
    # That a coarse look tells the classes is so of many findings that are no shortcut.
    serious = any(one.get("above_chance") for one in told) or bool(looks - {"small"})
    if serious or looks:
        yield Concern(serious, shortcuts["verdict"])


def _doubt_openings(openings: Sequence[Opening]) -> Iterator[Concern]:
    number = max((one.number for one in openings), default=0)
    if number > 1:
        yield Concern(
            True,
            f"The held-out persons were looked at {number} times, so what was measured of them "
            "after the first is no longer of persons whose answers nobody knew.",
        )


def _spell_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{one['meaning']} ({one['count']:,}, with {one['images']:,} images)" for one in findings
    )


def _doubt_persons(metrics: Mapping[str, Any]) -> Iterator[Concern]:
    if metrics["persons"] < FEW_PERSONS:
        yield Concern(
            True,
            f"Only {metrics['persons']} persons: with fewer than {FEW_PERSONS} the interval is "
            "likely too narrow.",
        )
    persons = {name: one["persons"] for name, one in metrics["per_class"].items()}
    few = [f"{name} ({count})" for name, count in persons.items() if count < FEW_PERSONS_OF_A_CLASS]
    if few:
        of = "with a label" if asks_several(metrics) else "of a class"
        yield Concern(
            True,
            f"Fewer than {FEW_PERSONS_OF_A_CLASS} persons {of}, so what is said of it rests on too "
            f"few: {', '.join(few)}.",
        )


def _doubt_headline(metrics: Mapping[str, Any]) -> Iterator[Concern]:
    headline = metrics.get("headline_interval") or metrics["metrics"][metrics["headline"]]
    guess = metrics["baselines"]["majority_class"][metrics["headline"]]
    if headline["low"] is None:
        return
    if headline["low"] <= guess:
        yield Concern(
            True,
            "The interval reaches the level of guessing: this run does not show that the classes "
            "can be told apart.",
        )
    if headline["low"] == 1:
        # The rule of three: Hanley and Lippman-Hand, JAMA 249 (1983) 1743.
        share = min(3 / metrics["persons"], 1)
        yield Concern(
            True,
            "The interval has no width because no resample has an error, not because the value "
            f"is certain: after {metrics['persons']} persons without an error, up to "
            f"{100 * share:.0f} % of new persons may still be wrong.",
        )


def _doubt_dropped(run: Mapping[str, Any]) -> Iterator[Concern]:
    dropped = sum(run["dropped"].values())
    if dropped:
        yield Concern(False, f"{dropped:,} images of the set took no part; the reasons are below.")
