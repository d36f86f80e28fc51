"""A report: one HTML file that needs no network and runs no script.

Text from files reaches the page through Jinja2's escaping alone; the only markup put in as it is
are figures, in which no such text stands.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medkit.errors import MedkitError
from medkit.evaluation.comparison import compare_runs, require_same_folds
from medkit.evaluation.evidence import Evidence, find_concerns, read_evidence
from medkit.evaluation.figures import (
    COLOURS,
    ClassCurves,
    Reliability,
    draw_reliability,
    draw_roc,
    measure_reliability,
    trace_roc,
)
from medkit.evaluation.mistakes import find_mistakes
from medkit.evaluation.tables import arrange_number, count_folds
from medkit.sources.fetching import PROVENANCE
from medkit.text import reveal
from medkit.workspace import Workspace, hash_file, hash_json, read_json, write_beside

_LICENCE_FACTS = ("title", "version", "licence", "citation", "homepage")


def write_report(run_folder: Path, workspace: Workspace) -> Path:
    """Write ``report.html`` into the folder of a run; equal runs give equal bytes.

    Raises
    ------
    UsageError
        If there is no run in the folder.
    WorkspaceError
        If its files are damaged.
    """
    return write_page([run_folder], run_folder / "report.html", workspace)


def write_page(run_folders: Sequence[Path], path: Path, workspace: Workspace) -> Path:
    """Write one page over runs on the same folds: the numbers side by side, then each run.

    Raises
    ------
    UsageError
        If a folder holds no run, or the runs are on different folds: their numbers then differ
        by the images as well as by the trainer.
    WorkspaceError
        If files of a run are damaged.
    """
    runs = [read_evidence(folder, workspace) for folder in run_folders]
    require_same_folds(runs)
    sections = [
        _describe_run(evidence, workspace, f"r{number}") for number, evidence in enumerate(runs, 1)
    ]
    html = render("page.html.j2", runs=sections, comparison=compare_runs(runs))
    with write_beside(path) as beside:
        beside.write_text(html, encoding="utf-8", newline="\n")
    return path


def choose_path(runs: Sequence[str], name: str | None, workspace: Workspace) -> Path:
    """Return where a page belongs: with its run, or under ``reports`` if it is over several.

    Where the names of the runs make one that is too long for a file, it ends in their hash.
    """
    if len(runs) == 1 and name is None:
        return workspace.run(runs[0]) / "report.html"
    joined = "-".join(runs)
    short = joined if len(joined) <= 100 else f"{joined[:83]}-{hash_json(list(runs))}"
    return workspace.report(name or short)


def render(template: str, **context: Any) -> str:
    """Return a page of this package's templates, in which all text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medkit.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_reveal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": _spell_share,
        "number": _spell_number,
        "points": _spell_points,
        "count": "{:,}".format,
    }
    return environment.get_template(template).render(**context) + "\n"


def _reveal(value: Any) -> Any:
    """Show what would otherwise act on the page unseen: control and bidirectional characters."""
    if value is None:
        return "–"
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return reveal(value)


def _spell_share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}\u202f%"


def _spell_number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}".replace("-", "−")


def _spell_points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _describe_run(evidence: Evidence, workspace: Workspace, key: str) -> dict[str, Any]:
    """Return all that the template shows of one run; ``key`` makes its ids unique."""
    metrics, predictions = evidence.metrics, evidence.predictions
    return {
        "key": key,
        "name": evidence.name,
        "run": evidence.run,
        "classes": evidence.classes,
        "concerns": find_concerns(evidence),
        "number": None if metrics is None else arrange_number(evidence, metrics),
        "curves": None if predictions is None else _draw_curves(evidence, predictions, key),
        "mistakes": None if predictions is None else _list_mistakes(evidence, predictions),
        "composition": None if evidence.folds is None else count_folds(evidence.folds),
        "provenance": _trace(evidence, workspace),
        "command": shlex.join(evidence.run["command"]),
        "set_aside": _list_set_aside(evidence),
    }


def _draw_curves(evidence: Evidence, predictions: pd.DataFrame, key: str) -> dict[str, Any]:
    classes = evidence.classes
    shown = [evidence.positive] if len(classes) == 2 else classes
    traced = [(name, _trace_class(predictions, name)) for name in shown]
    curves = [(name, curves) for name, curves in traced if curves]
    reliability = _measure(evidence, predictions)
    observed = "Observed share" if len(classes) == 2 else "Share that was right"
    roc_title = f"ROC curves of {len(curves)} classes; the areas are in the table by class"
    return {
        "roc": draw_roc([curve for _, curve in curves], f"{key}-roc", roc_title),
        "legend": [(name, number % COLOURS) for number, (name, _) in enumerate(curves)],
        "left_out": [name for name, curves in traced if curves is None],
        "reliability": draw_reliability(
            reliability,
            f"{key}-reliability",
            "Reliability diagram; its numbers are in the table below it",
            observed,
        ),
        "bins": reliability.bins,
        "error": reliability.error,
        "of": evidence.positive if len(classes) == 2 else None,
    }


def _trace_class(predictions: pd.DataFrame, name: str) -> ClassCurves | None:
    def trace(part: pd.DataFrame) -> Any:
        return trace_roc(
            (part["label"] == name).to_numpy(bool), part[f"p:{name}"].to_numpy(np.float64)
        )

    pooled = trace(predictions)
    folds = (trace(part) for _, part in predictions.groupby("fold"))
    return pooled and ClassCurves(pooled, tuple(curve for curve in folds if curve))


def _measure(evidence: Evidence, predictions: pd.DataFrame) -> Reliability:
    """Of two classes the positive one is judged, of more the class that was predicted."""
    if len(evidence.classes) == 2:
        name = evidence.positive
        return measure_reliability(
            predictions[f"p:{name}"].to_numpy(np.float64),
            (predictions["label"] == name).to_numpy(bool),
        )
    columns = [f"p:{name}" for name in evidence.classes]
    return measure_reliability(
        predictions[columns].max(axis=1).to_numpy(np.float64),
        (predictions["label"] == predictions["predicted"]).to_numpy(bool),
    )


def _list_mistakes(evidence: Evidence, predictions: pd.DataFrame) -> dict[str, Any]:
    image_set = evidence.image_set
    images = None if image_set is None else image_set.images()
    return {
        "wrong": int((predictions["predicted"] != predictions["label"]).sum()),
        "images": len(predictions),
        "shown": find_mistakes(predictions, images, evidence.no_set),
        "no_pictures": evidence.no_set,
    }


def _trace(evidence: Evidence, workspace: Workspace) -> dict[str, list[tuple[str, Any]]]:
    """Return groups of facts, as pairs of a term and its value, by which to repeat the run."""
    run = evidence.run
    return {
        "Images": [
            ("Set", run["set"]),
            ("Hash of the set", run["set_id"]),
            ("Recipe", _spell(run["recipe"])),
            ("Catalog snapshot", run["catalog_snapshot"]),
            ("Label", run["label"]),
            ("Folds", f"{run['k']}, by person, seed {run['seed']}, key {run['folds_key']}"),
        ],
        "Sources": _describe_sources(evidence, workspace),
        "Method": [
            ("Trainer", f"{run['plugin']} of {run['distribution']} {run['version']}"),
            ("Options", _spell(run["params"])),
            ("Weights to start from", _spell(run["weights"] or "the trainer names none")),
            ("Share cut for validation", run["validation_share"]),
            ("Seed", run["seed"]),
        ],
        "Machine": [
            ("Device", run["device"]),
            ("Threads", run["threads"]),
            ("Backend", run["backend"]),
            ("Platform", run["platform"]),
            ("Versions", _spell(run["versions"])),
            ("Started", run["started"]),
            ("Seconds", run["seconds"]),
        ],
        "Files": [
            (f"SHA-256 of {name}", hash_file(evidence.folder / name))
            for name in ("predictions.parquet", "metrics.json")
            if (evidence.folder / name).is_file()
        ],
    }


def _describe_sources(evidence: Evidence, workspace: Workspace) -> list[tuple[str, Any]]:
    if evidence.image_set is None:
        return [("Sources", f"not known: {evidence.no_set}")]
    names = sorted(evidence.image_set.table["source"].unique())
    return [(name, _describe_licence(workspace, name)) for name in names]


def _describe_licence(workspace: Workspace, source: str) -> str:
    try:
        stated = read_json(workspace.source(source) / PROVENANCE)
    except MedkitError:  # it was scanned where it lies, not fetched
        stated = {}
    facts = {name: stated[name] for name in _LICENCE_FACTS if stated.get(name)}
    return _spell(facts) if facts else "licence and citation are not stated"


def _spell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_spell(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_spell(one) for one in value) or "none"
    return "none" if value is None else str(value)


def _list_set_aside(evidence: Evidence) -> dict[str, dict[str, int]]:
    aside = {"Images of the set that took no part": evidence.run["dropped"]}
    if evidence.image_set is not None:
        manifest = evidence.image_set.manifest
        aside["Images refused when the set was made"] = manifest["counts"]["refused"]
        aside["Frames that the set left out"] = manifest["left_out"]
    return aside
