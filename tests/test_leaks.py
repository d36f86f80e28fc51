"""What stands on both sides of a split is found, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medkit.cli.audit import app
from medkit.cohort import preparation
from medkit.cohort.folds import Folds
from medkit.cohort.leaks import Leaks, check_leaks, find_leaks
from medkit.cohort.preparation import prepare_folds, split_classes
from medkit.errors import CohortError, UsageError
from medkit.images.reader import CachedCodes, Images
from medkit.workspace import Workspace, dump_json, read_json


def make_images(persons: int = 20, per_person: int = 3) -> pd.DataFrame:
    """The table of an ImageSet in which nothing is shared."""
    person = np.repeat(np.arange(persons), per_person)
    image = np.arange(len(person))
    return pd.DataFrame(
        {
            "image": image,
            "file": [f"f{number}" for number in image],
            "path": [f"study/{number}.dcm" for number in image],
            "person": [f"p{number:02}" for number in person],
            "split_group": [f"p{number:02}" for number in person],
            "StudyInstanceUID": [f"1.2.{number}" for number in person],
            "source_sha256": [f"s{number}" for number in image],
            "pixels_sha256": [f"x{number}" for number in image],
            "constant": False,
            "array": "uint16x1",
            "row": image,
            "pad_box": [[0, 0, 32, 32]] * len(image),
            "Rows": 32,
            "Columns": 32,
        }
    )


def show(images: pd.DataFrame) -> Images:
    """Their pixels: noise, so that no two are alike."""
    codes = np.random.default_rng(0).integers(0, 4096, (len(images), 32, 32), dtype=np.uint16)
    return Images(CachedCodes({"uint16x1": (np.arange(len(images)), codes)}, (32, 32)), images)


def make_folds_of(images: pd.DataFrame, k: int = 2) -> Folds:
    """Persons go to the folds in turn: p00 to 0, p01 to 1; labels change every second person."""
    number = images["person"].str[1:].astype(int)
    table = images[["image", "split_group"]].assign(
        label=np.where(number % 4 < 2, "A", "B"), fold=number % k
    )
    return Folds(table, "set", "0" * 16, "finding", k, 0)


def find(images: pd.DataFrame) -> Leaks:
    return find_leaks(images, make_folds_of(images))


def kinds(findings: list[Any]) -> list[str]:
    return [finding.kind for finding in findings]


def test_a_clean_set_has_no_findings() -> None:
    found = find(make_images())
    assert found.ok and found.exact == [] and found.listed == [] and found.images == 60
    check_leaks(found)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("split_group", "split_group"),
        ("StudyInstanceUID", "StudyInstanceUID"),
        ("source_sha256", "source_sha256"),
        ("pixels_sha256", "pixels_sha256"),
    ],
)
def test_a_planted_leak_is_found_once_and_refused(column: str, kind: str) -> None:
    images = make_images()
    images.loc[[0, 3], column] = "shared"  # of p00 in fold 0 and p01 in fold 1
    if column == "source_sha256":
        images.loc[[0, 3], "pixels_sha256"] = "the same"
    found = find(images)
    assert kinds(found.exact) == [kind] and not found.ok and found.listed == []
    (leak,) = found.exact
    assert (leak.count, leak.images) == (1, 2)
    assert leak.examples[0]["folds"] == [0, 1]
    assert leak.examples[0]["paths"] == ["study/0.dcm", "study/3.dcm"]
    with pytest.raises(CohortError, match=r"study/0\.dcm"):
        check_leaks(found)
    check_leaks(found, allow=True)


def test_what_is_shared_inside_one_fold_is_no_leak() -> None:
    images = make_images()
    images.loc[[0, 13], ["source_sha256", "pixels_sha256"]] = "shared"  # p00 and p04, fold 0
    assert find(images).ok


def test_constant_images_are_listed() -> None:
    images = make_images()
    images.loc[::5, ["source_sha256", "pixels_sha256"]] = "black"
    images.loc[::5, "constant"] = True
    found = find(images)
    assert found.ok and kinds(found.listed) == ["constant"]
    assert (found.listed[0].count, found.listed[0].images) == (1, 12)


@pytest.mark.parametrize(("persons", "leaks"), [(3, True), (4, False)])
def test_a_picture_of_more_than_three_persons_is_listed(persons: int, leaks: bool) -> None:
    images = make_images()
    images.loc[range(0, 6 * persons, 6), ["source_sha256", "pixels_sha256"]] = "card"
    found = find_leaks(images, make_folds_of(images, k=4))
    assert kinds(found.exact) == (["source_sha256"] if leaks else [])
    assert ("shared-picture" in kinds(found.listed)) is not leaks


def test_persons_without_a_label_count_for_a_picture_of_many() -> None:
    images = make_images()
    images.loc[range(0, 24, 6), ["source_sha256", "pixels_sha256"]] = "card"  # p00, p02, p04, p06
    labelled = images[images["person"].isin(["p00", "p02", "p08", "p10"])]
    found = find_leaks(images, make_folds_of(labelled, k=4))
    assert found.ok and kinds(found.listed) == ["shared-picture"]


def test_the_same_pixels_under_two_labels_are_listed() -> None:
    images = make_images()
    images.loc[[0, 6], "pixels_sha256"] = "shared"  # p00 is A, p02 is B, both in fold 0
    found = find(images)
    assert found.ok and kinds(found.listed) == ["disputed-label"]
    assert found.listed[0].examples[0]["labels"] == ["A", "B"]


def test_images_without_a_study_share_none() -> None:
    images = make_images()
    images["StudyInstanceUID"] = None
    assert find(images).ok


def test_the_json_is_bounded_and_complete_in_its_counts() -> None:
    images = make_images(persons=200)
    images["StudyInstanceUID"] = [f"1.2.{number // 6}" for number in images["image"]]
    content = json.loads(dump_json(find(images).to_json()))
    (leak,) = content["exact"]
    assert content["ok"] is False and content["images"] == 600
    assert (leak["count"], leak["images"], len(leak["examples"])) == (100, 600, 10)


def test_folds_of_other_images_are_refused() -> None:
    images = make_images()
    with pytest.raises(CohortError, match=r"5 images of the folds .* not in the set"):
        find_leaks(images.head(55), make_folds_of(images))


@pytest.fixture
def prepared(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A workspace whose set has these images, and whose catalog has the label ``finding``."""
    images = make_images()
    labels = pd.DataFrame({"file": images["file"], "value": ["AB"[n % 6 // 3] for n in range(60)]})
    image_set = SimpleNamespace(name="set", table=images, id="0" * 16, images=lambda: show(images))
    catalog = SimpleNamespace(labels=lambda name: labels)
    monkeypatch.setattr(preparation, "ImageSet", SimpleNamespace(open=lambda folder: image_set))
    monkeypatch.setattr(preparation, "Catalog", SimpleNamespace(open=lambda folder: catalog))
    return images


def test_folds_are_made_once_and_then_taken(workspace: Workspace, prepared: pd.DataFrame) -> None:
    first = prepare_folds(workspace, "set", "finding", 5, 0)
    path = workspace.folds / f"{first.folds.key}.parquet"
    audit = workspace.audits / f"{first.folds.key}.json"
    assert read_json(audit) == json.loads(dump_json(first.leaks.to_json()))
    # Folds written by an earlier version stay, also where this one would make others.
    path.unlink()
    table = first.folds.table.assign(fold=(first.folds.table["fold"] + 1) % 5)
    Folds(table, "set", "0" * 16, "finding", 5, 0).save(workspace.folds)
    again = prepare_folds(workspace, "set", "finding", 5, 0, classes=())
    pd.testing.assert_frame_equal(again.folds.table, table, check_dtype=False)
    assert sorted(workspace.folds.iterdir()) == [path]


def test_a_negative_seed_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="0 or more, such as 0, not -1"):
        prepare_folds(workspace, "set", "finding", 5, -1)
    assert not workspace.folds.exists()


def test_a_name_of_a_class_may_hold_a_comma() -> None:
    assert split_classes(None) == split_classes("") == []
    assert split_classes("a,b") == ["a", "b"]
    assert split_classes('"a, b", c d,e"') == ["a, b", "c d", 'e"']


def audit(workspace: Workspace, *options: str) -> Any:
    arguments = ["leaks", "set", "--label", "finding", "-w", str(workspace.root), *options]
    return CliRunner().invoke(app, arguments)


def test_the_command_prints_folds_that_add_up(workspace: Workspace, prepared: pd.DataFrame) -> None:
    result = audit(workspace, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert sum(fold["images"] for fold in content["folds"]) == content["images"] == 60
    assert [path.stem for path in Path(workspace.folds).iterdir()] == [content["key"]]
    assert "in two folds" in audit(workspace).stdout


def test_the_command_fails_where_a_leak_stands(
    workspace: Workspace, prepared: pd.DataFrame
) -> None:
    prepared.loc[[0, *range(3, 60, 18)], "pixels_sha256"] = "shared"
    prepared["person"] = "p00"  # or it would be a picture of many persons
    result = audit(workspace, "--json")
    assert isinstance(result.exception, CohortError) and result.exception.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert "the same pixels" in audit(workspace).stdout


def test_pictures_that_are_nearly_the_same_are_shown_side_by_side(
    workspace: Workspace, prepared: pd.DataFrame
) -> None:
    prepared["path"] = [f"<i>{number}</i>.dcm" for number in prepared["image"]]
    for name in ("slope", "full_high", "WindowWidth"):
        prepared[name] = 4096.0 if name != "slope" else 1.0
    prepared[["intercept", "full_low", "fill_value", "padding_share"]] = 0.0
    prepared["WindowCenter"] = 2048.0
    prepared[["VOILUTFunction", "BurnedInAnnotation", "units"]] = None
    prepared.loc[[3, 6], "row"] = [0, 0]  # p01 and p02 have p00's picture, in other files
    prepared.loc[6, "BurnedInAnnotation"] = "YES"
    result = audit(workspace, "--folds", "10", "--json")
    assert result.exit_code == 0, repr(result.exception)
    content = json.loads(result.stdout)
    assert content["ok"] and content["near"]["count"] >= 1  # near is no reason to refuse
    (page,) = workspace.audits.glob("*.html")
    assert content["page"] == str(page) and page.stem == content["key"]
    text = page.read_text(encoding="utf-8")
    assert "&lt;i&gt;" in text and "<i>" not in text and "<script" not in text
    assert text.count("<figure>") == 2 * len(content["near"]["pairs"])
    shown = {image for pair in content["near"]["pairs"] for image in pair["images"]}
    assert ("Not shown" in text) == (6 in shown)
    assert "Nearly the same" in audit(workspace, "--folds", "10").stdout
    # It goes where there is nothing to show any more.
    prepared["row"] = prepared["image"]
    (workspace.audits / f"{'0' * 16}.near.json").unlink()
    assert json.loads(audit(workspace, "--folds", "10", "--json").stdout)["page"] is None
    assert not page.exists()
