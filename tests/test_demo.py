"""``medkit demo``: the promise of the first command in the README."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Seen, check_page

pytest.importorskip("data_store", reason="pydicom-data is not installed: medkit[demo] brings it")
pytest.importorskip("medkit_inception", reason="the plugins are not installed")


def test_the_demo_ends_with_a_page_over_three_trainers(
    tmp_path: Path, run_cli: Callable[..., Any], browse: Callable[[Path], Seen]
) -> None:
    done = run_cli("demo", "-w", tmp_path / "demo", "--weights", "none", "--json", timeout=1200)
    assert done.exit_code == 0, done.stderr
    steps = json.loads(done.stdout)
    verbs = [step.split()[0] for step in steps]
    assert verbs == ["fetch", "fetch", "catalog", "label", "normalise", "verify", "audit", "train"]
    (normalised,) = (result for step, result in steps.items() if step.startswith("normalise"))
    assert normalised["selected"] == normalised["landed"] + sum(normalised["refused"].values())
    (trained,) = (result for step, result in steps.items() if step.startswith("train"))
    assert len(trained["runs"]) == 3
    for run in trained["runs"]:
        assert run["metrics"]["persons"] >= 15
        assert run["metrics"]["classes"] == ["CT", "MR", "US"]
    assert len(trained["reports"]) == 4
    assert "random" in Path(trained["reports"][-1]).read_text(encoding="utf-8").lower()
    for report in map(Path, trained["reports"]):
        shown = check_page(report, browse(report))
        assert shown["svg"] > 2
        assert shown["img"] > 2
