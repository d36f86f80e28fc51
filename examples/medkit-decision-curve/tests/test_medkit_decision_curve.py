"""Net benefit against a table by hand, and through medkit from images to the report."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medkit.cli import main
from medkit.evaluation.sections import Figure, RunData, Table, clean_svg
from medkit.statistics.outcomes import Outcomes
from medkit.testing import write_cohort

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

import medkit_decision_curve as plugin  # noqa: E402 - found by the line above

pytestmark = pytest.mark.usefixtures("installed")
TRUTH = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
STATED = np.array([0.9, 0.3, 0.05, 0.8, 0.15, 0.12, 0.05, 0.04, 0.02, 0.01])


def test_net_benefit_is_what_a_table_by_hand_says() -> None:
    # From 10 % on: two of three with the disease are treated, and three of seven without.
    assert plugin.benefit(TRUTH == 1, STATED, 0.1) == pytest.approx(2 / 10 - 3 / 10 / 9)
    # Treating everybody, by the formula with the prevalence (Vickers and Elkin 2006).
    for at in (0.1, 0.2, 0.5):
        everybody = plugin.benefit(TRUTH == 1, STATED + 2, at)
        assert everybody == pytest.approx(0.3 - 0.7 * at / (1 - at))


def test_whole_weights_are_copies_of_rows() -> None:
    outcomes = Outcomes(
        TRUTH, np.column_stack([1 - STATED, STATED]), np.arange(10).astype(str), ("no", "yes")
    )
    weights = np.random.default_rng(0).integers(0, 4, (20, 10)).astype(float)
    found = plugin.weigh_benefit(outcomes, weights, 0.2)
    for row, counts in enumerate(weights.astype(int)):
        several = np.repeat(np.arange(10), counts)
        expected = plugin.benefit(TRUTH[several] == 1, STATED[several], 0.2)
        assert found[row] == pytest.approx(expected)


def test_the_positive_class_is_the_one_that_was_chosen() -> None:
    told = np.column_stack([STATED, 1 - STATED])
    outcomes = Outcomes(1 - TRUTH, told, np.arange(10).astype(str), ("yes", "z"), positive=0)
    found = plugin.weigh_benefit(outcomes, np.ones((1, 10)), 0.1)[0]
    assert found == pytest.approx(plugin.benefit(TRUTH == 1, STATED, 0.1))


def make_run(classes: list[str]) -> RunData:
    columns = {f"p:{name}": STATED if name == "yes" else 1 - STATED for name in classes}
    predictions = pd.DataFrame({"label": np.where(TRUTH, "yes", "no"), **columns})
    record = {"classes": classes, "positive": "yes"}
    return RunData("run", Path(), record, None, predictions, None)


def test_the_section_has_a_figure_that_may_be_shown_and_its_numbers() -> None:
    title, blocks = plugin.write_section(make_run(["no", "yes"]))
    (figure,) = [one for one in blocks if isinstance(one, Figure)]
    assert title == "Decision curve" and clean_svg(figure.picture).count(b"polyline") == 3
    (table,) = [one for one in blocks if isinstance(one, Table)]
    assert table.rows[1][:2] == ["10%", pytest.approx(plugin.benefit(TRUTH == 1, STATED, 0.1))]
    assert "nobody" in blocks[0].text
    assert len(plugin.write_section(make_run(["a", "no", "yes"]))[1]) == 1


def test_medkit_measures_it_shows_it_and_compares_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path / "images", persons=24, per_person=1, size=24)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "-w", str(tmp_path / "home")])
        printed = capsys.readouterr()
        assert (end.value.code or 0) == code, printed.err
        return printed.err if code else printed.out

    run("catalog", str(tmp_path / "images"))
    run("label", "kind", "--tag", "Modality")
    run("normalise", "set", "--size", "24")
    train = ["train", "set", "--plugin", "softmax", "--label", "kind", "--folds", "2"]
    (done,) = json.loads(
        run(*train, "--metrics", "net-benefit", "--name", "one", "--no-saliency", "--json")
    )["runs"]
    entry = done["metrics"]["metrics"]["net_benefit_at_10"]
    assert entry["low"] <= entry["value"] <= entry["high"] and entry["value"] > 0.3
    everybody = done["metrics"]["baselines"]["prevalence"]["net_benefit_at_10"]
    assert everybody == pytest.approx(0.5 - 0.5 / 9)
    assert "net benefit at 20" in run("metrics", "one")
    run("report", "one", "--section", "decision-curve", "--no-saliency")
    html = (tmp_path / "home" / "runs" / "one" / "report.html").read_text(encoding="utf-8")
    assert "could not be written" not in html and "Net benefit at a threshold of 10 %" in html
    assert re.search(r"<h2[^>]*>Decision curve</h2>", html)
    check_comparison(run, [*train, "--no-saliency", "--json", "-p", "size=2"])


def check_comparison(run: Callable[..., str], coarse: list[str]) -> None:
    """Compare the run with a coarser one, and refuse one that was not measured by the plugin."""
    json.loads(run(*coarse, "--metrics", "net-benefit", "--name", "two"))
    asked = ["compare", "one", "two", "--metric", "net_benefit_at_20", "--resamples", "200"]
    found = json.loads(run(*asked, "--json"))
    values = {row["run"]: row["value"] for row in found["rows"]}
    for name in ("one", "two"):
        measured = json.loads(run("metrics", name, "--json"))["metrics"]["net_benefit_at_20"]
        assert values[name] == pytest.approx(measured["value"])
    (pair,) = found["pairs"]
    assert pair["difference"] == pytest.approx(values[pair["first"]] - values[pair["second"]])
    assert pair["low"] <= pair["difference"] <= pair["high"] and 0 < pair["p"] <= 1
    assert {name for tier in found["ranking"] for name in tier} == {"one", "two"}
    assert "Ranking by net benefit at 20" in run(*asked)
    run(*coarse, "--name", "bare")
    refused = run("compare", "one", "bare", "--metric", "net_benefit_at_20", code=2)
    assert "there is no metric 'net_benefit_at_20'" in refused
