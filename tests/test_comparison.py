"""Runs on the same folds: their difference, paired by person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import fabricate_run

from medkit.errors import UsageError
from medkit.evaluation.comparison import compare_runs, require_same_folds
from medkit.evaluation.evidence import Evidence, read_evidence
from medkit.statistics.intervals import resample_persons
from medkit.workspace import Workspace


@pytest.fixture
def runs(workspace: Workspace) -> list[Evidence]:
    """Two runs that differ in what they predict."""
    folders = [fabricate_run(workspace, name, persons=24) for name in ("one", "another")]
    return [read_evidence(folder, workspace) for folder in folders]


def predictions(run: Evidence) -> pd.DataFrame:
    assert run.predictions is not None
    return run.predictions


def difference(runs: list[Evidence]) -> dict[str, float]:
    compared = compare_runs(runs)
    assert compared is not None
    assert compared["rows"][0]["difference"] is None
    found = compared["rows"][1]["difference"]
    assert found is not None
    return dict(found)


def test_the_difference_is_that_of_scikit_learn_on_the_same_persons(
    runs: list[Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import balanced_accuracy_score

    monkeypatch.setattr("medkit.evaluation.comparison._DRAWS", 200)
    first, other = map(predictions, runs)
    persons = first["person"].to_numpy(str)
    weights = np.concatenate(list(resample_persons(persons, runs[0].run["seed"], 200)))
    drawn = [
        balanced_accuracy_score(other["label"], other["predicted"], sample_weight=row)
        - balanced_accuracy_score(first["label"], first["predicted"], sample_weight=row)
        for row in weights
    ]
    found = difference(runs)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    assert found["value"] == pytest.approx(
        balanced_accuracy_score(other["label"], other["predicted"])
        - balanced_accuracy_score(first["label"], first["predicted"])
    )


def test_the_order_of_rows_does_not_matter(runs: list[Evidence]) -> None:
    shuffled = predictions(runs[1]).sample(frac=1, random_state=0)
    assert difference([runs[0], replace(runs[1], predictions=shuffled)]) == difference(runs)


def test_a_run_differs_by_nothing_from_its_copy(runs: list[Evidence]) -> None:
    copy = replace(runs[0], folder=Path("copy"))
    assert difference([runs[0], copy]) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_class_of_one_person_leaves_no_interval(runs: list[Evidence]) -> None:
    table = predictions(runs[0]).assign(label="MR", predicted="MR")
    table.loc[table["person"] == table["person"].iloc[0], "label"] = "CT"
    lonely = [replace(run, predictions=table) for run in runs]
    assert difference(lonely) == {"value": 0.0, "low": None, "high": None}


def test_a_run_without_a_number_has_a_row(runs: list[Evidence]) -> None:
    without = replace(runs[1], metrics=None, predictions=None)
    compared = compare_runs([without, runs[0]])
    assert compared is not None
    assert [row["values"] == {} for row in compared["rows"]] == [True, False]
    assert compared["first"] == "one"
    assert compare_runs([without, without]) is None


def test_runs_with_another_positive_class_do_not_stand_side_by_side(runs: list[Evidence]) -> None:
    other = replace(runs[1], run={**runs[1].run, "positive": runs[0].classes[0]})
    with pytest.raises(UsageError, match=f"another is for '{runs[0].classes[0]}'"):
        require_same_folds([runs[0], other])


def test_runs_on_other_folds_do_not_stand_side_by_side(runs: list[Evidence]) -> None:
    other = replace(runs[1], run={**runs[1].run, "folds_key": "fedcba9876543210"})
    with pytest.raises(UsageError, match="another on fedcba9876543210"):
        require_same_folds([runs[0], other])
