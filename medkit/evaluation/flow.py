"""How a cohort came about: from files to persons, with everything that fell out on the way.

Each stage is the one before it less what is named between them. Where that does not come out, the
difference is shown as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medkit.catalog.store import Catalog
from medkit.errors import MedkitError
from medkit.evaluation.evidence import Evidence
from medkit.evaluation.spelling import count
from medkit.statistics.truth import find_class
from medkit.workspace import Workspace

_FILES = """
SELECT CASE WHEN vanished THEN 'vanished' WHEN kind IN ('image', 'other-dicom', 'non-dicom')
    THEN 'kept' ELSE kind END AS value, count(*) AS files
FROM files GROUP BY ALL ORDER BY files DESC, value
"""
# What `medkit.images.selection` chooses from, or leaves out by name.
_FRAMES = """
SELECT count(*) AS frames, count(DISTINCT instances.file) AS instances
FROM files LEFT JOIN instances USING (file) LEFT JOIN frames USING (file)
WHERE NOT files.vanished AND files.kind IN ('image', 'other-dicom', 'non-dicom')
"""
_WORDS = {
    "archive": "archives, whose members are files of their own",
    "ignored": "not images, by name or content",
    "problem": "not readable",
    "vanished": "no longer there",
    "alias": "copies of an image that is there",
    "not-an-image": "other DICOM objects",
    "not-2d": "no frames that are read",
    "localizer": "localizers",
    "secondary-capture": "secondary captures",
    "slide": "tiles of slides",
    "where": "not asked for by --where",
    "slice-rule": "not among the slices asked for",
    "no-volume": "in no volume to cut",
    "unlabelled": "without a label",
}
_UNKNOWN = "not accounted for"


@dataclass(frozen=True)
class Stage:
    """What there is at one point, and what of it goes no further.

    Attributes
    ----------
    title, unit : str
        What they are, and in what they are counted.
    count : int
    note : str
        What else is known of them.
    lost : dict of str to int
        By reason, in words; the next stage counts the rest.
    """

    title: str
    unit: str
    count: int
    note: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Flow:
    """All stages, and what is not known of those before the first."""

    stages: list[Stage]
    note: str = ""


def trace_flow(evidence: Evidence, workspace: Workspace) -> Flow | None:
    """Return how the images of a run came about; None where neither its set nor folds are left."""
    if evidence.image_set is None or evidence.folds is None:
        return None
    before, note = _trace_files(evidence, workspace)
    return Flow([*before, *_trace_set(evidence, planned_anew=_is_derived(evidence))], note)


def _is_derived(evidence: Evidence) -> bool:
    counts = evidence.image_set.manifest["counts"] if evidence.image_set else {}
    return bool(counts.get("selected") != counts.get("planned"))


def _trace_files(evidence: Evidence, workspace: Workspace) -> tuple[list[Stage], str]:
    """Return the stages that only the catalog knows, and why there are none."""
    snapshot = evidence.run["catalog_snapshot"]
    try:
        with Catalog(workspace.catalog, snapshot) as catalog:
            catalog.manifest.check(workspace.catalog)
            counted = catalog.query(_FILES)
            frames = catalog.query(_FRAMES).iloc[0]
    except MedkitError:
        return [], f"How many files were walked is not known: the snapshot {snapshot} of the " + (
            "catalog, which the set was made from, is no longer there."
        )
    files = dict(zip(counted["value"], map(int, counted["files"]), strict=True))
    kept, total = files.pop("kept", 0), int(frames["frames"])
    instances = count(int(frames["instances"]), "instance")
    return [
        Stage("Found", "files", kept + sum(files.values()), lost=_word(files)),
        Stage("Images and other DICOM objects", "files", kept, instances),
        Stage("In them", "frames and objects", total, lost=_lose_frames(evidence, total)),
    ], ""


def _lose_frames(evidence: Evidence, total: int) -> dict[str, int]:
    assert evidence.image_set is not None
    manifest = evidence.image_set.manifest
    lost = _word(manifest["left_out"])
    rest = total - manifest["counts"]["selected"] - sum(lost.values())
    return lost | ({_UNKNOWN: rest} if rest else {})


def _trace_set(evidence: Evidence, planned_anew: bool) -> list[Stage]:
    assert evidence.image_set is not None and evidence.folds is not None
    counts, table = evidence.image_set.manifest["counts"], evidence.image_set.table
    stages = [Stage("Selected for the set", "frames", counts["selected"])]
    if planned_anew:
        stages.append(Stage("Made of these frames", "images", counts["planned"]))
    stages[-1] = _lose(stages[-1], _word(counts["refused"]))
    dropped = _word(evidence.run["dropped"])
    rest = len(table) - len(evidence.folds) - sum(dropped.values())
    lost = dropped | ({_UNKNOWN: rest} if rest else {})
    persons = f"of {count(table['split_group'].nunique(), 'person')}"
    stages.append(Stage("In the set", "images", len(table), persons, lost))
    return [*stages, _describe_used(evidence)]


def _describe_used(evidence: Evidence) -> Stage:
    assert evidence.folds is not None
    folds = evidence.folds
    # Of several labels an image counts for each that it has, and those without any for none.
    parts = {
        name: folds[find_class(folds["label"], name, evidence.several)] for name in evidence.classes
    }
    classes = ", ".join(
        f"{name}: {count(len(part), 'image')} of {count(part['split_group'].nunique(), 'person')}"
        for name, part in parts.items()
    )
    persons = count(folds["split_group"].nunique(), "person")
    held = int((folds["fold"] < 0).sum())
    told = f"; {held:,} of them were held out" if held else ""
    return Stage("In the folds", "images", len(folds), f"of {persons}{told}. {classes}")


def _lose(stage: Stage, lost: Mapping[str, int]) -> Stage:
    return Stage(stage.title, stage.unit, stage.count, stage.note, lost)


def _word(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by reason in words; a code of a refusal stays as `refused.parquet` has it."""
    return {_WORDS.get(reason, reason): int(count) for reason, count in counts.items() if count}


def check_sums(flow: Flow) -> list[tuple[Stage, Stage]]:
    """Return neighbours, counted in one unit, whose difference is not what was lost."""
    pairs = zip(flow.stages, flow.stages[1:], strict=False)
    return [
        (one, other)
        for one, other in pairs
        if (one.lost or one.unit == other.unit)
        and one.count - sum(one.lost.values()) != other.count
    ]
