"""What a label can be told by without looking is found, and nothing is found where nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import make_workspace
from typer.testing import CliRunner

from medkit.cli.audit import app
from medkit.cohort.division import make_folds
from medkit.cohort.folds import Folds
from medkit.cohort.shortcuts import BOUND, audit_shortcuts, read_shortcuts
from medkit.cohort.traits import MISSING, RARE, VIEWS, Glance, glance, list_fields
from medkit.images.reader import CachedCodes, Images
from medkit.workspace import Workspace, dump_json, read_json


def make_cohort(
    persons: int = 120, per_person: int = 2, classes: str = "AB", seed: int = 0
) -> tuple[Folds, pd.DataFrame]:
    """Folds, and a table of images that knows nothing of the label."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(persons), per_person)
    count = len(person)
    folds = pd.DataFrame(
        {
            "image": np.arange(count),
            "split_group": [f"p{one:04}" for one in person],
            "label": [classes[one % len(classes)] for one in person],
        }
    )
    folds["fold"] = make_folds(folds, 4, 0)
    by_person = random.integers(0, 4, persons)[person]
    table = folds[["image", "split_group"]].assign(
        Manufacturer=np.array(["Acme", "Bolt", "Cog", "Dyn"])[by_person],
        Rows=random.choice([256, 512], persons)[person],
        PatientAge=[f"{age:03}Y" for age in random.integers(20, 90, persons)[person]],
        PatientSex=np.array(["F", "M", None], dtype=object)[random.integers(0, 3, persons)[person]],
        PixelSpacing=[[spacing, spacing] for spacing in random.uniform(0.5, 1, count)],
        StudyDate=[f"20{year:02}0101" for year in random.integers(0, 20, persons)[person]],
        Modality="CT",
    )
    return Folds(folds, "set", "a" * 16, "finding", 4, 0), table


def look(table: pd.DataFrame, seed: int = 0) -> Glance:
    """Pixels that show nothing but noise."""
    random = np.random.default_rng(seed)
    border = pd.DataFrame({"border mean": random.normal(size=len(table))})
    views = {name: random.normal(size=(len(table), 64)).astype(np.float32) for name in VIEWS}
    return Glance(border, views)


def labels_of(folds: Folds) -> Any:
    return (folds.table["label"] == "B").to_numpy()


def test_where_nothing_tells_nothing_is_told() -> None:
    folds, table = make_cohort()
    found = audit_shortcuts(folds, table, look(table))
    judged = [found["fields"], *found["fields"]["strongest"], *found["pixels"]]
    assert not any(one["above_chance"] for one in judged)
    assert "Neither" in found["verdict"] and str(BOUND) in found["verdict"]
    assert (found["images"], found["persons"]) == (240, 120)
    # Modality is the same everywhere; six fields, the border, two views, and all together.
    assert found["tried"] == 6 + 1 + 2 + 1
    assert json.loads(dump_json(found)) == found


@pytest.mark.parametrize(
    ("column", "plant", "tells"),
    [
        ("Manufacturer", lambda yes: np.where(yes, "Acme", "Bolt"), "the scanner"),
        ("Rows", lambda yes: np.where(yes, 500, 256), "how files were made"),
        ("StudyDate", lambda yes: np.where(yes, "20190101", "20100101"), "when images were taken"),
        ("PatientAge", lambda yes: np.where(yes, "070Y", "010M"), "who was examined"),
        ("PatientSex", lambda yes: np.where(yes, None, "F"), "who was examined"),  # type: ignore[call-overload]
    ],
)
def test_a_field_that_tells_the_label_is_named(column: str, plant: Any, tells: str) -> None:
    folds, table = make_cohort()
    table[column] = plant(labels_of(folds))
    found = audit_shortcuts(folds, table, look(table))
    first, second = found["fields"]["strongest"][:2]
    assert first["field"] == column and first["above_chance"] and first["auc"]["value"] == 1
    assert not second["above_chance"]
    assert found["fields"]["above_chance"] and tells in found["verdict"]
    shares = [value["shares"] for value in first["values"]]
    assert all(max(one.values()) == 1 and sum(one.values()) == 1 for one in shares)


@pytest.mark.parametrize("view", VIEWS)
def test_pixels_that_tell_the_label_are_named(view: str) -> None:
    folds, table = make_cohort()
    seen = look(table)
    seen.views[view][labels_of(folds), 5] += 4
    found = audit_shortcuts(folds, table, seen)
    told = {one["view"]: one["above_chance"] for one in found["pixels"]}
    assert told == {name: name == view for name in VIEWS}
    assert "border" in found["verdict"] if view == "border" else "8 by 8" in found["verdict"]


def test_a_class_of_three_is_told_from_the_others() -> None:
    folds, table = make_cohort(classes="ABC")
    table["Manufacturer"] = np.where(folds.table["label"] == "C", "Acme", "Bolt")
    found = audit_shortcuts(folds, table, look(table))
    first = found["fields"]["strongest"][0]
    # C against the others is 1; A and B are told from C alone, which is 0.75 each.
    assert first["field"] == "Manufacturer"
    assert first["auc"]["value"] == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.02)


def test_a_name_of_each_person_tells_nothing() -> None:
    folds, table = make_cohort()
    table["ManufacturerModelName"] = table["split_group"]
    assert "ManufacturerModelName" not in [field.name for field in list_fields(table)]
    found = audit_shortcuts(folds, table, look(table))
    assert not found["fields"]["above_chance"]


def test_images_of_one_person_count_as_one() -> None:
    folds, table = make_cohort(persons=60, per_person=1)
    table["Manufacturer"] = np.where(labels_of(folds), "Acme", "Bolt")
    table.loc[table.index[:12], "Manufacturer"] = "Acme"  # some who say the wrong thing
    alone = audit_shortcuts(folds, table, look(table))
    times = np.where(np.arange(60) < 12, 30, 1)
    rows = np.repeat(np.arange(60), times)
    many = folds.table.iloc[rows].assign(image=range(len(rows))).reset_index(drop=True)
    more = table.iloc[rows].reset_index(drop=True)
    again = audit_shortcuts(Folds(many, "set", "a" * 16, "finding", 4, 0), more, look(more))

    def value(found: dict[str, Any]) -> float:
        fields = {one["field"]: one["auc"]["value"] for one in found["fields"]["strongest"]}
        return float(fields["Manufacturer"])

    assert value(again) == pytest.approx(value(alone))


def test_without_any_field_pixels_are_judged() -> None:
    folds, table = make_cohort()
    bare = table[["image", "split_group"]]
    found = audit_shortcuts(folds, bare, Glance(pd.DataFrame(index=table.index), look(table).views))
    assert found["fields"] is None and len(found["pixels"]) == 2 and found["tried"] == 2


def test_fields_say_what_is_missing_rare_and_cut() -> None:
    _, table = make_cohort()
    table.loc[0, "Manufacturer"] = "Only here"
    table.loc[table["PatientSex"].isna(), "PatientSex"] = None
    fields = {field.name: field for field in list_fields(table)}
    assert (
        RARE in fields["Manufacturer"].values and "Only here" not in fields["Manufacturer"].values
    )
    assert MISSING in fields["PatientSex"].values
    assert 2 <= len(fields["PixelSpacing"].values) <= 8
    counts = np.bincount(fields["PixelSpacing"].codes)
    assert counts.sum() == len(table) and counts.min() >= len(table) // 8 - 1
    assert "Modality" not in fields


def test_a_glance_keeps_the_border_and_the_coarse_look_in_real_units() -> None:
    codes = np.zeros((2, 80, 80), np.uint16)
    codes[0, 20:60, 20:60] = 1000  # a bright middle
    codes[1, :, :5] = 1000  # a bright edge
    table = pd.DataFrame(
        {
            "image": [0, 1],
            "array": "uint16x1",
            "row": [0, 1],
            "pad_box": [[0, 0, 80, 80]] * 2,
            "slope": [2.0, 1.0],
            "intercept": [-100.0, 0.0],
        }
    )
    seen = glance(Images(CachedCodes({"uint16x1": (np.arange(2), codes)}, (80, 80)), table))
    assert seen.border["border mean"][0] == pytest.approx(-100)
    assert seen.border["border bright share"].tolist() == pytest.approx([0, 0.2], abs=0.1)
    small = seen.views["small"].reshape(2, 8, 8)
    assert small[0, 4, 4] == pytest.approx(1900) and small[0, 0, 0] == pytest.approx(-100)
    assert seen.views["border"].shape == (2, 16 * 16 - 12 * 12)


def test_what_was_found_is_read_from_the_audit(workspace: Workspace) -> None:
    path = workspace.audits / "key.json"
    assert read_shortcuts(path) is None
    path.parent.mkdir(parents=True)
    path.write_text('{"shortcuts": {"label": "finding"}}')
    assert read_shortcuts(path) == {"label": "finding"}
    for broken in ("{", "[]", "{}", '{"shortcuts": 1}'):
        path.write_text(broken)
        assert read_shortcuts(path) is None


def test_the_command_keeps_what_it_finds(tmp_path: Path) -> None:
    root = make_workspace(tmp_path)
    where = ["set", "--label", "animal", "--folds", "2", "-w", str(root)]
    result = CliRunner().invoke(app, ["shortcuts", *where, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    audit = Workspace(root).audits / f"{content['key']}.json"
    assert read_json(audit)["shortcuts"]["verdict"] == content["verdict"]
    # It stays where folds are audited again, as training does.
    again = CliRunner().invoke(app, ["leaks", *where, "--json"])
    assert json.loads(again.stdout)["shortcuts"]["verdict"] == content["verdict"]
    shown = CliRunner().invoke(app, ["shortcuts", *where]).stdout
    assert "pixels: border" in shown and "without looking" in shown
