"""A report: one HTML file over one run, or over several on the same folds.

What stands on it is gathered here, from the modules that know it, and laid out by the templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medkit.evaluation.answers import Told, answer_questions
from medkit.evaluation.checklists import CLAIM, TRIPOD, count, fill, write_card
from medkit.evaluation.comparison import compare_runs, require_same_folds
from medkit.evaluation.curves import (
    ClassCurves,
    Reliability,
    band_precision,
    band_reliability,
    band_roc,
    measure_reliability,
    read_class,
    trace_classes,
    trace_precision,
    trace_roc,
)
from medkit.evaluation.evidence import Evidence, find_concerns, read_evidence
from medkit.evaluation.figures import COLOURS, draw_precision, draw_reliability, draw_roc
from medkit.evaluation.findings import describe_findings
from medkit.evaluation.flow import check_sums, trace_flow
from medkit.evaluation.mistakes import Examples, find_examples, unroll
from medkit.evaluation.pages import render
from medkit.evaluation.provenance import (
    describe_sources,
    spell_command,
    spell_installation,
    trace,
)
from medkit.evaluation.saliency import ALIKE, Saliency, find_saliency
from medkit.evaluation.sections import write_sections
from medkit.evaluation.tables import (
    arrange_number,
    count_folds,
    count_of_hundred,
    describe_calibration,
)
from medkit.workspace import Workspace, hash_json, write_beside

# With more curves in one figure, their bands hide one another.
_MOST_BANDS = 3


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


def write_page(
    run_folders: Sequence[Path],
    path: Path,
    workspace: Workspace,
    *,
    saliency: bool = True,
    sections: Sequence[str] = (),
) -> Path:
    """Write one page over runs on the same folds: the numbers side by side, then each run.

    Parameters
    ----------
    run_folders : sequence of Path
    path : Path
        Of the page.
    workspace : Workspace
        Locked by the caller.
    saliency : bool
        Whether to ask the models which parts of the images shown decided; what they once said is
        kept with the run.
    sections : sequence of str
        Plugins that each add a section to every run.

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
    described = [
        _describe_run(evidence, workspace, f"r{number}", saliency)
        | {"added": write_sections(evidence, sections)}
        for number, evidence in enumerate(runs, 1)
    ]
    html = render("page.html.j2", runs=described, comparison=compare_runs(runs))
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


def _describe_run(
    evidence: Evidence, workspace: Workspace, key: str, saliency: bool
) -> dict[str, Any]:
    """Return all that the template shows of one run; ``key`` makes its ids unique."""
    metrics, predictions = evidence.metrics, evidence.predictions
    concerns, flow = find_concerns(evidence), trace_flow(evidence, workspace)
    examples = None
    if predictions is not None:
        examples = _find_examples(evidence, workspace, predictions, saliency)
    sources = describe_sources(evidence, workspace)
    told = Told(
        evidence,
        flow,
        examples.saliency if examples else Saliency(),
        sources,
        [concern.text for concern in concerns],
        spell_command(evidence.run),
    )
    return {
        "key": key,
        "name": evidence.name,
        "run": evidence.run,
        "classes": evidence.classes,
        "several": evidence.several,
        "concerns": concerns,
        "number": None if metrics is None else arrange_number(evidence, metrics),
        "hundred": [] if metrics is None else count_of_hundred(evidence, metrics),
        "findings": describe_findings(evidence),
        "curves": None if predictions is None else _draw_curves(evidence, predictions, key),
        "calibration": describe_calibration(evidence.calibration),
        "mistakes": None if examples is None else _describe_examples(examples, evidence),
        "flow": flow,
        "unsound": bool(flow and check_sums(flow)),
        "composition": None if evidence.folds is None else _count_folds(evidence),
        "evaluations": evidence.evaluations,
        **_fill_in(told),
        "provenance": trace(evidence, sources),
        "command": told.command,
        "typed": bool(evidence.run["command"]),
        "installation": spell_installation(evidence.run),
    }


def _count_folds(evidence: Evidence) -> dict[str, Any]:
    assert evidence.folds is not None
    names = evidence.run.get("fold_names") or []
    return count_folds(evidence.folds, names, evidence.several)


def _fill_in(told: Told) -> dict[str, Any]:
    """Return the model card and the checklists, with how much of them is filled."""
    answers = answer_questions(told)
    filled = {
        "CLAIM, 2024 update": fill(CLAIM, answers),
        "TRIPOD+AI": fill(TRIPOD, answers),
    }
    return {
        "card": write_card(answers),
        "checklists": {
            title: {"sections": sections, "counts": count(sections)}
            for title, sections in filled.items()
        },
    }


def _draw_curves(evidence: Evidence, predictions: pd.DataFrame, key: str) -> dict[str, Any]:
    classes, seed = evidence.classes, evidence.run["seed"]
    two = len(classes) == 2 and not evidence.several
    shown = [evidence.positive] if two else classes
    banded = len(shown) <= _MOST_BANDS
    roc, precision = (
        {
            name: trace_classes(
                predictions, name, line, band if banded else None, seed, evidence.several
            )
            for name in shown
        }
        for line, band in ((trace_roc, band_roc), (trace_precision, band_precision))
    )
    reliability = _measure(evidence, predictions)
    prevalence = float((predictions["label"] == shown[0]).mean()) if len(shown) == 1 else None
    drawn = [name for name, curves in roc.items() if curves]
    return {
        "roc": draw_roc(
            _keep(roc), f"{key}-roc", f"ROC curves of {len(drawn)} classes; areas are in the table"
        ),
        "precision": draw_precision(
            _keep(precision), prevalence, f"{key}-precision", "Precision over recall of the classes"
        ),
        "prevalence": prevalence,
        "banded": banded,
        "legend": [(name, number % COLOURS) for number, name in enumerate(drawn)],
        "left_out": [name for name, curves in roc.items() if curves is None],
        "reliability": draw_reliability(
            reliability,
            f"{key}-reliability",
            "Reliability diagram; its numbers are in the table below it",
            "Observed share" if two or evidence.several else "Share that was right",
        ),
        "bins": reliability.bins,
        "error": reliability.error,
        "of": evidence.positive if two else None,
    }


def _keep(curves: dict[str, ClassCurves | None]) -> list[ClassCurves]:
    return [one for one in curves.values() if one]


def _measure(evidence: Evidence, predictions: pd.DataFrame) -> Reliability:
    """Of two classes the positive one is judged, of more the class that was predicted.

    Of several labels all are, each image as often as it has labels that are known.
    """
    persons = predictions["person"].to_numpy(str)
    if evidence.several:
        every = [read_class(predictions, name, several=True) for name in evidence.classes]
        happened, stated, persons = (np.concatenate(part) for part in zip(*every, strict=True))
    elif len(evidence.classes) == 2:
        name = evidence.positive
        stated = predictions[f"p:{name}"].to_numpy(np.float64)
        happened = (predictions["label"] == name).to_numpy(bool)
    else:
        columns = [f"p:{name}" for name in evidence.classes]
        stated = predictions[columns].to_numpy(np.float64).max(axis=1)
        happened = (predictions["label"] == predictions["predicted"]).to_numpy(bool)
    measured = measure_reliability(stated, happened)
    band = band_reliability(stated, happened, persons, evidence.run["seed"])
    return Reliability(measured.bins, measured.error, band)


def _find_examples(
    evidence: Evidence, workspace: Workspace, predictions: pd.DataFrame, saliency: bool
) -> Examples:
    image_set = evidence.image_set

    def explain(chosen: pd.DataFrame) -> Saliency:
        if not saliency:
            return Saliency(note="this report was written with --no-saliency")
        return find_saliency(evidence, workspace, chosen)

    images = None if image_set is None else image_set.images()
    told = unroll(predictions, evidence.classes) if evidence.several else predictions
    return find_examples(told, images, evidence.no_set, explain)


def _describe_examples(examples: Examples, evidence: Evidence) -> dict[str, Any]:
    predictions, saliency = evidence.predictions, examples.saliency
    assert predictions is not None
    if evidence.several:
        predictions = unroll(predictions, evidence.classes)
    return {
        "wrong": int((predictions["predicted"] != predictions["label"]).sum()),
        "images": len(predictions),
        "shown": examples.wrong,
        "right": examples.right,
        "no_pictures": evidence.no_set,
        "saliency": saliency,
        "doubtful": saliency.alike is not None and saliency.alike >= ALIKE,
    }
