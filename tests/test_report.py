"""The report: one file, escaped, whole without a network, the same each time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Seen, check_page, read
from finished import Finished

from medkit.errors import UsageError, WorkspaceError
from medkit.evaluation.mistakes import find_examples
from medkit.evaluation.report import choose_path, write_page, write_report
from medkit.evaluation.saliency import Saliency
from medkit.evaluation.tables import compare_looks, count_folds
from medkit.statistics.summary import summarise
from medkit.workspace import Workspace, read_json, write_json

POISON = "<script>alert(1)</script>\u202e\"'&amp;"


def fabricate_run(
    workspace: Workspace,
    name: str = "first",
    classes: tuple[str, ...] = ("CT", "MR"),
    persons: int = 60,
    **changes: Any,
) -> Path:
    """Write the files of a finished run of three folds, two images a person."""
    folder = workspace.run(name)
    predictions = fabricate_predictions(classes, persons, seed=len(name))
    folder.mkdir(parents=True)
    predictions.to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "metrics.json", fabricate_metrics(predictions, classes))
    write_json(folder / "run.json", fabricate_record(name, classes) | changes)
    folds = predictions[["image", "person", "label", "fold"]]
    workspace.folds.mkdir(exist_ok=True)
    folds.rename(columns={"person": "split_group"}).to_parquet(
        workspace.folds / "0123456789abcdef.parquet"
    )
    return folder


def fabricate_predictions(classes: tuple[str, ...], persons: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    images = 2 * persons
    person = np.arange(images) // 2
    truth = person % len(classes)
    logits = random.normal(0, 1, (images, len(classes)))
    logits[np.arange(images), truth] += 1.7
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "image": np.arange(images),
            "file": [f"{image:016x}" for image in range(images)],
            "path": [f"P{one:03d}/study/{i}.dcm" for i, one in enumerate(person)],
            "frame": 0,
            "person": [f"{one:016x}" for one in person],
            "label": [classes[one] for one in truth],
            "predicted": [classes[one] for one in probabilities.argmax(axis=1)],
            "fold": person % 3,
        }
        | {f"p:{name}": probabilities[:, i] for i, name in enumerate(classes)}
    )


def fabricate_metrics(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    metrics = summarise(
        predictions["label"].map(classes.index),
        predictions[[f"p:{name}" for name in classes]],
        predictions["person"],
        predictions["fold"],
        classes,
        seed=0,
        resamples=100,
    )
    looks = [{"fold": fold, "number": 8, "best": -0.3, "chosen": -0.4} for fold in range(3)]
    return metrics | {"looks": looks}


def fabricate_record(name: str, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "status": "done",
        "plugin": "softmax",
        "distribution": "medkit-softmax",
        "version": "0.1.0",
        "params": {"size": 32, "window": "header"},
        "set": "demo",
        "set_id": "feedfeedfeedfeed",
        "recipe": {"size": [299, 299], "geometry": "letterbox", "filter": "bilinear"},
        "catalog_snapshot": "cafecafecafecafe",
        "label": "modality",
        "folds_key": "0123456789abcdef",
        "k": 3,
        "seed": 7,
        "device": "cpu",
        "threads": 2,
        "backend": "none",
        "platform": "Linux",
        "validation_share": 0.15,
        "command": ["medkit", "train", "--plugin", "softmax", "--set", "demo"],
        "versions": {"python": "3.11.9", "medkit": "0.1.0"},
        "classes": list(classes),
        "positive": None,
        "dropped": {"no label": 4},
        "weights": None,
        "features": None,
        "warnings": [],
        "folds": [{"fold": k, "status": "done", "seconds": 3.1, "error": None} for k in range(3)],
        "started": "2025-01-01T10:00:00+00:00",
        "seconds": 12.5,
        "leaks": {"exact": [], "listed": []},
    }


@dataclass(frozen=True)
class StandIn:
    """What a report asks of an ImageSet, with pictures of one stripe."""

    table: pd.DataFrame
    manifest: dict[str, Any]

    def images(self) -> StandIn:
        return self

    def codes(self, image: int) -> np.ndarray:
        return np.tile(np.arange(64, dtype=np.uint16), (64, 1)) + image


@pytest.fixture
def with_set(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Runs find a set of 120 images in which every seventh has text burned in."""
    table = pd.DataFrame(
        {
            "source": "local",
            "SOPInstanceUID": [f"2.25.{image}" for image in range(120)],
            "BurnedInAnnotation": [None if image % 7 else "YES" for image in range(120)],
            "slope": 1.0,
            "pad_box": [[0, 8, 64, 56]] * 120,
            "affine": [[1.0, 0, 0, 0, 1.0, 0]] * 120,
            "plane": None,
            "PixelSpacing": None,
            "image": range(120),
            "split_group": [f"{image // 2:016x}" for image in range(120)],
        }
    )
    counts = {"selected": 122, "planned": 122, "landed": 120, "refused": {"pixel-length": 2}}
    stand_in = StandIn(table, {"counts": counts, "left_out": {"localizer": 3}})
    monkeypatch.setattr("medkit.evaluation.evidence._open_set", lambda *_: (stand_in, ""))
    return stand_in


def test_the_number_and_its_interval_come_first(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    text = read(write_report(folder, workspace)).text
    value, interval = spell_headline(folder, "headline_interval")
    places = [
        text.index(part)
        for part in (
            value,
            interval,
            "120 images of 60 persons",
            "The interval is of the whole procedure, training included. It says\nwhat this way",
            "All measures",
            "By class",
            "What was taken for what",
            "By fold",
            "Looks at the validation part",
            "The worst mistakes",
            "Who took part, and what was set aside",
            "Who is in which fold",
            "After Mitchell et al.",
            "Checklists for the paper",
            "Where it comes from",
            "pip install medkit==0.1.0 medkit-softmax==0.1.0\nmedkit train --plugin softmax",
        )
    ]
    assert places == sorted(places)


def spell_headline(folder: Path, shown: str = "") -> tuple[str, str]:
    """Return the headline of a run and its interval, as a reader sees them."""
    metrics = read_json(folder / "metrics.json")
    headline = metrics[shown] if shown else metrics["metrics"]["balanced_accuracy"]
    value, low, high = (f"{100 * headline[part]:.1f}\u202f%" for part in ("value", "low", "high"))
    return value, f"{low} to {high}"


def test_the_stand_in_has_columns_that_a_set_has(with_set: StandIn) -> None:
    from medkit.images.imageset import IMAGES_SCHEMA

    assert set(with_set.table.columns) <= set(IMAGES_SCHEMA.names)


def test_equal_runs_give_equal_bytes(workspace: Workspace, with_set: StandIn) -> None:
    folder = fabricate_run(workspace)
    first = write_report(folder, workspace).read_bytes()
    assert write_report(folder, workspace).read_bytes() == first


def test_text_from_files_is_text_on_the_page(workspace: Workspace, with_set: StandIn) -> None:
    classes = tuple(sorted((POISON, "$x^2$ {{ 7 * 7 }}", "عربي")))
    folder = fabricate_run(
        workspace, classes=classes, dropped={POISON: 1}, warnings=[POISON], label=POISON
    )
    poisoned = pd.read_parquet(folder / "predictions.parquet").assign(path=f"{POISON}\n.dcm")
    poisoned.to_parquet(folder / "predictions.parquet")
    reader = read(write_report(folder, workspace))
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form"}
    assert not [attrs for _, attrs in reader.elements if any(key[:2] == "on" for key in attrs)]
    shown = POISON.replace("\u202e", "\\u202e")
    assert reader.text.count(shown) > 10
    assert f"{shown}\\n.dcm" in reader.text
    assert "$x^2$ {{ 7 * 7 }}" in reader.text
    assert "\u202e" not in reader.text
    pictures = [attrs for tag, attrs in reader.elements if tag == "img"]
    assert any(shown in (attrs["alt"] or "") for attrs in pictures)


def test_nothing_is_fetched_from_elsewhere(workspace: Workspace, with_set: StandIn) -> None:
    page = write_report(fabricate_run(workspace), workspace)
    reader = read(page)
    policy = [attrs for tag, attrs in reader.elements if tag == "meta" and "content" in attrs]
    assert policy[0]["http-equiv"] == "Content-Security-Policy"
    assert policy[0]["content"] == ("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    links = [
        value or ""
        for tag, attrs in reader.elements
        for key, value in attrs.items()
        if key.endswith(("href", "src"))
    ]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"url\((?!#)|@import", page.read_text(encoding="utf-8"))


def test_every_id_is_there_once_and_every_reference_meets_one(
    workspace: Workspace, with_set: StandIn
) -> None:
    folders = [fabricate_run(workspace, name) for name in ("first", "second-longer")]
    path = write_page(folders, workspace.report("both"), workspace)
    elements = read(path).elements
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    labels = [attrs["aria-labelledby"] or "" for _, attrs in elements if "aria-labelledby" in attrs]
    wanted = [one for label in labels for one in label.split()]
    wanted += [
        value[1:]
        for _, attrs in elements
        for key, value in attrs.items()
        if key.endswith("href") and value
    ]
    wanted += re.findall(r"url\(#([^)]+)\)", path.read_text(encoding="utf-8"))
    assert set(wanted) <= set(ids)


def test_what_a_screen_reader_needs_is_there(workspace: Workspace, with_set: StandIn) -> None:
    elements = read(write_report(fabricate_run(workspace), workspace)).elements
    assert all(
        attrs.get("scope") in ("row", "col", "rowgroup") for tag, attrs in elements if tag == "th"
    )
    assert all(attrs["alt"] for tag, attrs in elements if tag == "img")
    drawings = [attrs for tag, attrs in elements if tag == "svg"]
    assert all(
        attrs.get("aria-hidden") or (attrs["role"] == "img" and attrs["aria-label"])
        for attrs in drawings
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": {"name": "none"}}, "Random initialisation"),
        (
            {"leaks": {"exact": [{"meaning": "the same picture", "count": 3, "images": 1007}]}},
            "stand the same picture (3, with 1,007 images)",
        ),
        ({"warnings": ["fold 1 did not converge"]}, "fold 1 did not converge"),
        ({"status": "running"}, "is not finished"),
        (
            {"folds": [{"fold": 2, "status": "failed", "seconds": 1, "error": "<killed>"}]},
            "Fold 2 failed: <killed>",
        ),
    ],
)
def test_what_could_make_the_number_wrong_is_a_warning(
    workspace: Workspace, changes: dict[str, Any], says: str
) -> None:
    clean = read(write_report(fabricate_run(workspace), workspace)).text
    assert "serious warning" not in clean
    doubted = fabricate_run(workspace, "doubted", **changes)
    text = read(write_report(doubted, workspace)).text
    value, _ = spell_headline(doubted)
    assert text.index("1 serious warning:") < text.index(value) < text.index(says)


def test_few_persons_are_a_warning(workspace: Workspace) -> None:
    text = read(write_report(fabricate_run(workspace, persons=16), workspace)).text
    assert "Only 16 persons" in text
    assert "CT (8), MR (8)" in text


def test_an_interval_that_reaches_guessing_is_a_warning(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    metrics = read_json(folder / "metrics.json")
    metrics["metrics"]["balanced_accuracy"] = {"value": 0.55, "low": 0.48, "high": 0.62}
    metrics.pop("headline_interval", None)
    write_json(folder / "metrics.json", metrics)
    text = read(write_report(folder, workspace)).text
    assert "does not show that the classes can be told apart" in text


def test_an_interval_without_width_is_a_warning(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    metrics = read_json(folder / "metrics.json")
    metrics["metrics"]["balanced_accuracy"] = {"value": 1.0, "low": 1.0, "high": 1.0}
    metrics.pop("headline_interval", None)
    write_json(folder / "metrics.json", metrics)
    text = read(write_report(folder, workspace)).text
    assert "after 60 persons without an error, up to 5 % of new persons may still be wrong" in text


def test_values_that_are_not_known_are_dashes(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    metrics = read_json(folder / "metrics.json")
    metrics["metrics"]["auc"] = dict.fromkeys(("value", "low", "high"))
    metrics["metrics"]["balanced_accuracy"] = dict.fromkeys(("value", "low", "high"))
    metrics.pop("headline_interval", None)
    metrics["notes"] = ["auc: not defined"]
    write_json(folder / "metrics.json", metrics)
    text = read(write_report(folder, workspace)).text
    assert "Not computable" in text
    assert "auc: not defined" in text
    assert "None" not in text
    assert "nan" not in text


def test_a_run_without_a_number_still_has_a_report(workspace: Workspace) -> None:
    folder = fabricate_run(workspace, status="failed")
    (folder / "metrics.json").unlink()
    (folder / "predictions.parquet").unlink()
    text = read(write_report(folder, workspace)).text
    assert "No number" in text
    assert "By fold" not in text
    assert "Where it comes from" in text


def test_mistakes_are_the_surest_ones_two_of_a_person(
    workspace: Workspace, with_set: StandIn
) -> None:
    folder = fabricate_run(workspace)
    table = pd.read_parquet(folder / "predictions.parquet")
    table.loc[:39, ["label", "predicted", "p:CT", "p:MR"]] = ["CT", "MR", 0.001, 0.999]
    table.loc[:9, "person"] = "0" * 16
    asked: list[pd.DataFrame] = []

    def explain(chosen: pd.DataFrame) -> Saliency:
        asked.append(chosen)
        return Saliency()

    examples = find_examples(table, with_set, "", explain)
    shown = examples.wrong
    assert len(shown) == 12
    assert [(one.true, one.predicted) for one in examples.right] == [("CT", "CT"), ("MR", "MR")] * 2
    assert [one.uid for one in shown] == [f"2.25.{image}" for image in (0, 1, *range(10, 20))]
    hidden = [one for one in shown if one.picture is None]
    assert [one.uid for one in hidden] == ["2.25.0", "2.25.14"]
    assert {one.no_picture for one in hidden} == {"its header says that text is burned into it"}
    # What is not shown is not explained.
    (explained,) = asked
    assert len(explained) == 12 - 2 + sum(one.picture is not None for one in examples.right)
    assert not set(explained["image"]) & {0, 14}


def test_without_its_set_a_report_says_why_there_are_no_pictures(workspace: Workspace) -> None:
    reader = read(write_report(fabricate_run(workspace), workspace))
    assert "img" not in {tag for tag, _ in reader.elements}
    assert "the set demo cannot be opened" in reader.text


def test_composition_adds_up(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    counts = count_folds(pd.read_parquet(workspace.folds / "0123456789abcdef.parquet"))
    columns = list(zip(*counts["rows"].values(), strict=True))
    assert [sum(images for images, _ in column) for column in columns] == [
        images for images, _ in counts["sums"]
    ]
    assert counts["sums"][-1] == (120, 60)
    assert counts["columns"] == ["Fold 0", "Fold 1", "Fold 2", "All"]
    assert "40 20 p." in read(write_report(folder, workspace)).text


@pytest.mark.parametrize(
    ("best", "metric", "test"), [(0.84, "balanced_accuracy", 0.8), (-0.3, "log_loss", 0.5)]
)
def test_looks_stand_beside_the_test_part(best: float, metric: str, test: float) -> None:
    look = {"fold": 0, "number": 8, "best": best, "chosen": best - 0.1}
    none = {"fold": 1, "number": 0, "best": None, "chosen": None}
    metrics = {"folds": [{"fold": 0, "metrics": {metric: test}}], "looks": [look, none]}
    metrics["folds"].append({"fold": 1, "metrics": {metric: None}})
    compared = compare_looks(metrics)
    test = -test if metric == "log_loss" else test
    assert compared["rows"] == [look | {"test": test, "optimism": pytest.approx(best - test)}]
    assert ("log loss" in compared["compared"]) == (metric == "log_loss")


def test_a_source_states_its_licence(workspace: Workspace, with_set: StandIn) -> None:
    folder = fabricate_run(workspace)
    assert "licence and citation are not stated" in read(write_report(folder, workspace)).text
    stated = {"licence": "CC BY 4.0", "citation": "Doe <doe> 2019"}
    write_json(workspace.source("local") / "provenance.json", stated)
    text = read(write_report(folder, workspace)).text
    assert "licence CC BY 4.0; citation Doe <doe> 2019" in text


def test_a_page_over_runs_has_their_numbers_side_by_side(workspace: Workspace) -> None:
    folders = [fabricate_run(workspace, name) for name in ("first", "second")]
    path = write_page(folders, workspace.report("both"), workspace)
    text = re.sub(r"\s+", " ", read(path).text)
    assert path == workspace.root / "reports" / "both.html"
    assert "2 runs on the same folds" in text
    for folder in folders:
        value, interval = (part.replace("\u202f", " ") for part in spell_headline(folder))
        assert f"softmax {folder.name} {value} {interval}" in text
    assert "they are paired" in text
    assert re.search(
        r"Difference to the first .*second.* [+−]\d+\.\d [+−]\d+\.\d to [+−]\d+\.\d", text
    )
    assert text.count("The worst mistakes") == 2


def test_a_run_that_is_not_there_is_named(workspace: Workspace) -> None:
    fabricate_run(workspace)
    with pytest.raises(UsageError, match=r"no run 'nothing'.*runs here: first"):
        write_report(workspace.run("nothing"), workspace)


def test_a_damaged_run_is_an_error_that_names_the_file(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    (folder / "predictions.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(WorkspaceError, match=r"predictions\.parquet is damaged"):
        write_report(folder, workspace)


def test_the_verb_writes_and_says_where(
    workspace: Workspace, call_cli: Callable[..., Finished]
) -> None:
    for name in ("first", "second"):
        fabricate_run(workspace, name)
    one = call_cli("report", "first", "-w", workspace.root, "--json")
    assert one.exit_code == 0, one.stderr
    assert json.loads(one.stdout) == {
        "report": str(workspace.run("first") / "report.html"),
        "runs": ["first"],
    }
    several = call_cli("report", "first", "second", "-w", workspace.root)
    assert several.exit_code == 0, several.stderr
    assert workspace.report("first-second").is_file()
    assert call_cli("report", "third", "-w", workspace.root).exit_code == 2


def test_a_browser_shows_all_and_asks_for_nothing(
    workspace: Workspace, with_set: StandIn, browse: Callable[[Path], Seen], tmp_path: Path
) -> None:
    control = tmp_path / "control.html"
    control.write_text("<img src='http://host.invalid/x.png'><script>console.error(1)</script>")
    seen = browse(control)
    assert seen.requested == ["http://host.invalid/x.png"]
    assert len(seen.console) == 1

    page = write_report(fabricate_run(workspace, classes=("CT", POISON)), workspace)
    assert check_page(page, browse(page))["img"] > 5


def test_a_page_over_runs_of_long_names_has_a_name_that_fits(tmp_path: Path) -> None:
    home = Workspace(tmp_path)
    one, other = ("a" * 90, "b" * 90)
    assert choose_path(["x", "y"], None, home) == tmp_path / "reports" / "x-y.html"
    paths = {choose_path([one, last], None, home) for last in (other, "c" * 90)}
    assert len(paths) == 2 and all(len(path.stem) == 100 for path in paths)
