"""Several labels an image: told as text or as columns, dealt, learned, measured and shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import DESKTOP, PHONE, Browser, start_browser
from faketrainer import CENTROID, install, run_here
from findingsets import NAMES, make_findings
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from test_finished_run import axe as axe

from medkit.catalog.store import Catalog
from medkit.cohort.division import divide, make_inner_folds
from medkit.cohort.folds import Folds
from medkit.cohort.joining import join_labels
from medkit.cohort.preparation import find_shortcuts, prepare_folds
from medkit.cohort.questions import Question, read_answers
from medkit.errors import CohortError, UsageError
from medkit.evaluation.comparison import contrast_runs
from medkit.evaluation.evidence import read_evidence
from medkit.evaluation.report import write_page
from medkit.statistics.calibration import apply_temperature, cross_fit, fit_temperature
from medkit.statistics.labelwise import LabelHeads, fit_labels, load_head
from medkit.statistics.linear import LinearHead, fit_linear
from medkit.statistics.metrics import NAMES as METRICS
from medkit.statistics.outcomes import Outcomes
from medkit.statistics.permutation import permute, score
from medkit.statistics.summary import summarise
from medkit.statistics.truth import (
    find_class,
    list_classes,
    read_truth,
    spell_findings,
    spell_truth,
    split_findings,
)
from medkit.training import prediction
from medkit.training import run as training
from medkit.training.head import list_notes
from medkit.training.measurement import permute_labels
from medkit.workspace import Workspace, read_json

RUNS = {"text": {"label": "findings", "separator": "|"}, "columns": {"label": ",".join(NAMES)}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run of each form of the labels, and one more to compare with."""
    home = Workspace(make_findings(tmp_path_factory.mktemp("made")))
    with home.lock():
        for name, asked in RUNS.items():
            train(home, name=name, **asked)
        train(home, name="coarse", options={"size": "4"}, **RUNS["text"])
    return home


def train(home: Workspace, plugin: str = "softmax", **asked: Any) -> training.Finished:
    return training.train(home, "set", plugin, folds=3, threads=1, device="cpu", **asked)


def read_predictions(home: Workspace, name: str) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    table = pd.read_parquet(home.run(name) / "predictions.parquet")
    truth = read_truth(table["label"], NAMES, several=True)
    return truth, table[[f"p:{one}" for one in NAMES]].to_numpy(), table


names = st.text("abcxyz ?", min_size=1, max_size=4).filter(lambda name: not name.startswith("?"))


@given(st.sets(names), st.sets(names))
def test_findings_are_read_as_they_were_spelt(present: set[str], unknown: set[str]) -> None:
    unknown -= present
    text = spell_findings(present, unknown)
    assert split_findings(text) == (present, unknown)
    classes = sorted(present | unknown | {"other"})
    row = read_truth([text], classes, several=True)
    assert row.tolist() == [[1 if c in present else -1 if c in unknown else 0 for c in classes]]
    assert spell_truth(row, classes).tolist() == [text]
    assert list_classes([text], several=True) == tuple(sorted(present))
    assert find_class([text, ""], "other", several=True).tolist() == ["other" in present, False]


def test_text_and_columns_tell_the_same_but_for_what_is_not_known(made: Workspace) -> None:
    catalog = Catalog.open(made.catalog)
    text, columns = (
        read_answers(catalog, Question(**asked)).set_index("file")["value"].sort_index()
        for asked in RUNS.values()
    )
    assert (text.index == columns.index).all()
    truth, told = (read_truth(values, NAMES, several=True) for values in (text, columns))
    assert (told == -1).sum() == 9  # of 80, every ninth
    assert (truth == told)[told >= 0].all()
    assert "No Finding" not in list_classes(text, several=True)
    kept = read_answers(catalog, Question("findings", "|"), keep=["No Finding"])
    assert "No Finding" in list_classes(kept["value"], several=True)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"label": "Mass,Nodule", "separator": "|"}, "need none"),
        ({"label": "Mass,findings"}, "says yes"),
        ({"label": "Mass,absent"}, "no label 'absent'"),
    ],
)
def test_what_cannot_be_asked_is_refused(made: Workspace, asked: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        read_answers(Catalog.open(made.catalog), Question(**asked))


def test_a_cohort_counts_labels_that_are_set_aside_and_keeps_their_images() -> None:
    texts = ["a|b", "a", "", "b|c", "a|?b", "b", "a"]
    images = pd.DataFrame({"image": range(7), "file": range(7), "split_group": list("ppqrstu")})
    labels = pd.DataFrame({"file": range(7), "value": texts})
    cohort = join_labels(images, labels, min_persons=2, several=True)
    assert cohort.small_classes == {"c": 1}
    assert cohort.table["label"].tolist() == ["a|b", "a", "", "b", "a|?b", "b", "a"]
    assert cohort.dropped == {}
    chosen = join_labels(images, labels, classes=["b", "c"], several=True)
    assert chosen.table["label"].tolist() == ["b", "", "", "b|c", "?b", "b", ""]
    with pytest.raises(CohortError, match="there are 1: 'a'"):
        join_labels(images, labels, classes=["a"], several=True)
    everywhere = labels.assign(value=["a|b", "a", "a", "a|b", "a", "a|b", "a"])
    with pytest.raises(CohortError, match="every image has 'a'"):
        join_labels(images, everywhere, several=True)
    nothing = labels.assign(value=["?a|?b", *texts[1:]])
    assert join_labels(images, nothing, classes=["a", "b"], several=True).dropped == {
        "no label is known": 1
    }


def test_folds_hold_every_label_and_come_back_from_their_file(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    persons = np.repeat([f"p{one:02d}" for one in range(45)], 2)
    texts = [
        spell_findings({n for n, s in zip("abc", (0.5, 0.3, 0.2), strict=True) if draw < s})
        for draw in random.random(90)
    ]
    table = pd.DataFrame({"image": range(90), "split_group": persons, "label": texts})
    fold = divide(table, 4, 0, several=True)
    assert (pd.Series(fold).groupby(persons).nunique() == 1).all()
    folds = Folds.part(table.assign(fold=fold), "set", "id", "findings", 4, 0, several=True)
    assert folds.classes == ("a", "b", "c")
    for one in folds.describe():
        assert min(one["classes"].values()) > 0
    for name in "abc":
        held = sum(one["classes"][name] for one in folds.describe())
        assert held == sum(name in text for text in texts)
    loaded = Folds.load(folds.save(tmp_path))
    assert (loaded.several, loaded.key, loaded.classes) == (True, folds.key, folds.classes)
    single = Folds.part(table.assign(fold=fold), "set", "id", "findings", 4, 0)
    assert single.key != folds.key
    inner = make_inner_folds(persons, folds.truth, 0)
    assert inner is not None
    assert all(folds.truth[inner == one].max(axis=0).all() for one in np.unique(inner))


def draw_problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(150, 6)).astype(np.float32)
    labels = (features[:, :3] + 0.8 * random.normal(size=(150, 3)) > 0.4).astype(np.int64)
    return features, labels, np.arange(150).astype(str)


def test_each_label_is_solved_as_if_it_were_alone(tmp_path: Path) -> None:
    features, labels, persons = draw_problem()
    labels[::7, 1] = -1
    inner = np.arange(150) % 3
    heads = fit_labels(features, labels, persons, 3, inner=inner)
    for column, head in enumerate(heads.heads):
        known = labels[:, column] >= 0
        alone = fit_linear(
            *(features[known], labels[known, column], persons[known], 2), inner=inner[known]
        )
        assert (head.weights == alone.weights).all()
        assert head.strength == alone.strength
    stated = heads.predict_proba(features)
    assert not np.allclose(stated.sum(axis=1), 1)
    assert stated == pytest.approx(1 / (1 + np.exp(-(features @ heads.weights.T + heads.bias))))
    *tried, chosen = heads.losses.values()
    assert chosen <= min(tried)
    heads.save(tmp_path)
    loaded = load_head(tmp_path)
    assert isinstance(loaded, LabelHeads)
    assert (loaded.predict_proba(features) == stated).all()


def test_a_label_is_what_scikit_learn_makes_of_it() -> None:
    features, labels, persons = draw_problem(1)
    heads = fit_labels(features, labels, persons, 3, inner=np.arange(150) % 3, strengths=[0.1])
    exact = features.astype(np.float64)
    standard = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    for column in range(3):
        theirs = LogisticRegression(C=1 / (0.1 * 150), tol=1e-10, max_iter=10_000)
        theirs.fit(standard, labels[:, column])
        ours = heads.predict_proba(features)[:, column]
        assert ours == pytest.approx(theirs.predict_proba(standard)[:, 1], abs=1e-5)


def test_a_note_on_a_label_has_its_name(tmp_path: Path) -> None:
    place = tmp_path / "fold-0" / "model"
    place.mkdir(parents=True)
    quiet = LinearHead(np.zeros((2, 3)), np.zeros(2), 0.1, {}, ())
    LabelHeads((quiet, replace(quiet, notes=("it is odd",)))).save(place)
    course: Any = SimpleNamespace(folder=tmp_path, record={"k": 1, "classes": ["Mass", "Nodule"]})
    assert list_notes(course) == ["fold 0: Nodule: it is odd"]


def test_a_run_predicts_each_label_by_itself(made: Workspace) -> None:
    truth, stated, table = read_predictions(made, "text")
    assert (truth >= 0).all()
    assert not np.allclose(stated.sum(axis=1), 1)
    assert (read_truth(table["predicted"], NAMES, several=True) == (stated > 0.5)).all()
    metrics = read_json(made.run("text") / "metrics.json")
    assert (metrics["task"], metrics["classes"], metrics["positive"]) == (
        *("multilabel", list(NAMES)),
        None,
    )
    values = {name: entry["value"] for name, entry in metrics["metrics"].items()}
    assert values["auc"] == pytest.approx(roc_auc_score(truth, stated, average="macro"))
    assert values["average_precision"] == pytest.approx(average_precision_score(truth, stated))
    balanced = [balanced_accuracy_score(t, p > 0.5) for t, p in zip(truth.T, stated.T, strict=True)]
    assert values["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    assert values["auc"] > 0.9
    assert [np.sum(one) for one in metrics["confusion"]] == [len(table)] * 3
    assert {one["label"] for one in metrics["operating_points"]} == set(NAMES)
    assert [look["number"] for look in metrics["looks"]] == [13, 13, 13]
    calibration = read_json(made.run("text") / "calibration.json")
    assert len(calibration["temperature"]) == len(calibration["youden"]) == 3


def test_what_is_not_known_is_in_no_number_of_its_label(made: Workspace) -> None:
    truth, stated, _ = read_predictions(made, "columns")
    metrics = read_json(made.run("columns") / "metrics.json")
    known = truth[:, 2] >= 0
    assert (~known).sum() == 9
    assert np.sum(metrics["confusion"][2]) == known.sum()
    nodule = metrics["per_class"]["Nodule"]["auc"]["value"]
    assert nodule == pytest.approx(roc_auc_score(truth[known, 2], stated[known, 2]))


def test_trainers_that_do_one_label_are_refused_with_what_would_work(
    made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "fake-centroid", CENTROID, names=("centroid",))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UsageError, match=r"'centroid' does multiclass.*such as softmax, cnn or inception"
    ):
        train(made, "centroid", **RUNS["text"])
    with pytest.raises(UsageError, match="--positive is of two classes"):
        train(made, positive="Mass", **RUNS["text"])


def test_the_procedure_has_an_interval_of_its_own(
    made: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, of labels that are not all known; pairs of folds are fitted once more."""
    shutil.copytree(made.root, tmp_path / "w", ignore=shutil.ignore_patterns("runs"))
    asked = ["--label", ",".join(NAMES), "--folds", "3", "--threads", "1", "--device", "cpu"]
    asked += ["--procedure-interval", "1", "--name", "nested", "--no-saliency", "-p", "size=8"]
    run_here(["train", "set", "--plugin", "softmax", *asked, "-w", str(tmp_path / "w")])
    shown, told = (" ".join(part.split()) for part in capsys.readouterr())
    assert "the procedure's own interval takes 3 more fits" in told
    folder = Workspace(tmp_path / "w").run("nested")
    metrics = read_json(folder / "metrics.json")
    found = metrics["procedure"]
    assert (found["repeats"], found["fits"]) == (1, 3)
    assert 1 <= found["factor"] <= np.sqrt(3)
    assert metrics["headline_interval"]["shows"] == "procedure"
    assert set(found["metrics"]) == set(metrics["metrics"])
    assert found["low"] <= metrics["metrics"]["balanced_accuracy"]["low"]
    assert f"({found['low']:.3f}–{found['high']:.3f}): the procedure's interval" in shown
    predicted, table = np.load(folder / "refits" / "0" / "told.npy"), read_folds(folder)
    for one, out in zip(predicted, [(0, 1), (0, 2), (1, 2)], strict=True):
        assert (np.isfinite(one).all(axis=1) == np.isin(table, out)).all()
        assert not np.allclose(np.nansum(one, axis=1)[np.isin(table, out)], 1)


def read_folds(folder: Path) -> np.ndarray:
    table = pd.read_parquet(folder / "predictions.parquet")
    return table.sort_values("image")["fold"].to_numpy()


def test_runs_are_compared_and_tested_for_luck(made: Workspace) -> None:
    runs = [read_evidence(made.run(name), made) for name in ("text", "coarse")]
    found = contrast_runs(runs, "auc", draws=100, permutations=100)
    for row, run in zip(found["rows"], runs, strict=True):
        truth, stated, _ = read_predictions(made, run.name)
        assert row["value"] == pytest.approx(roc_auc_score(truth, stated, average="macro"))
    assert found["pairs"][0]["p"] is not None
    with made.lock():
        metrics = permute_labels(made, "text", 99)
    assert metrics["permutation"]["p"] == pytest.approx(0.01)
    # Persons whose images differ exchange with few others, so that chance is not quite a half.
    assert metrics["permutation"]["null"]["mean"] == pytest.approx(0.5, abs=0.1)


def test_labels_are_dealt_together_and_scored_as_metrics_are() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (60, 3))
    labels[::8, 0] = -1
    stated = random.random((60, 3)).round(2)
    outcomes = Outcomes(labels, stated, np.arange(60), ["a", "b", "c"])
    kinds, held = np.unique(labels, axis=0, return_inverse=True)
    rows = np.stack([held.reshape(-1), random.permutation(held.reshape(-1))])
    found = score(outcomes, kinds, rows)
    for number, dealt in enumerate(rows):
        expected = Outcomes(kinds[dealt], stated, np.arange(60), ["a", "b", "c"]).measure().metrics
        for name, values in found.items():
            assert values[number] == pytest.approx(float(expected[name]), abs=1e-12)
    chance = permute(outcomes, np.arange(60) % 3, 199, 0, "auc")
    assert chance["p"] > 0.02


def test_each_label_has_a_temperature_and_a_threshold_of_its_own() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (300, 2))
    logits = (2 * labels - 1) * 1.0 + random.normal(size=(300, 2))
    logits[:, 1] *= 3  # too sure
    stated = 1 / (1 + np.exp(-logits))
    crossed, temperatures = cross_fit(labels, stated, np.arange(300) % 3)
    assert all(cold < hot for cold, hot in temperatures)
    alone = fit_temperature(labels[:, 1], np.column_stack([1 - stated[:, 1], stated[:, 1]])).value
    heated = apply_temperature(stated, [1.0, alone])
    assert (heated[:, 0] == stated[:, 0]).all()
    assert np.log(heated[:, 1] / (1 - heated[:, 1])) == pytest.approx(logits[:, 1] / alone)
    found = summarise(
        *(labels, crossed, np.arange(300), np.arange(300) % 3, ["a", "b"]),
        seed=0,
        resamples=20,
        threshold=[0.2, 0.8],
    )
    truth, cut = labels[:, 1], crossed[:, 1] >= 0.8
    assert found["per_class"]["b"]["sensitivity"]["value"] == cut[truth == 1].mean()
    assert set(found["metrics"]) == set(METRICS)


def test_a_locked_run_is_measured_and_applied_elsewhere(made: Workspace, tmp_path: Path) -> None:
    with made.lock():
        done = prediction.evaluate(
            made, "text", "set", label="findings", threshold="youden", allow_overlap=True
        )
        assert done.metrics is not None
        assert len(done.record["decision"]["threshold"]) == 3
        assert done.metrics["metrics"]["auc"]["value"] > 0.95
        part = prediction.evaluate(made, "text", "set", label="Mass,Effusion", allow_overlap=True)
        assert part.metrics is not None
        assert part.metrics["per_class"]["Nodule"]["auc"]["value"] is None
        assert part.metrics["per_class"]["Mass"]["auc"]["value"] > 0.95
        with pytest.raises(UsageError, match="predicts several labels"):
            prediction.evaluate(made, "columns", "set", label="Mass", allow_overlap=True)
        told = prediction.predict(made, "text", "set")
    texts = told.predictions["predicted"]
    assert set(list_classes(set(texts), several=True)) <= set(NAMES)


def test_shortcuts_are_looked_for_label_by_label(made: Workspace) -> None:
    with made.lock():
        prepared = prepare_folds(made, "set", "findings", 3, 0, separator="|")
        found = find_shortcuts(made, prepared).leaks.shortcuts
    assert found is not None
    assert [one["label"] for one in found["by_label"]] == list(NAMES)
    assert {one["tried"] for one in found["by_label"]} == {found["tried"]}
    # Findings stand in the corners: what a border sees of them is said.
    assert "The border of the images alone tells Effusion" in found["verdict"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(made: Workspace) -> Path:
    path = made.report("both")
    with made.lock():
        write_page([made.run("text"), made.run("coarse")], path, made, saliency=False)
        return write_page([made.run("columns")], made.report("columns"), made)


def test_a_report_speaks_of_labels_and_not_of_confusion(made: Workspace, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for said in ("mean over labels", "False alarms", "By label", "answers, one a label"):
        assert said in text
    assert "Confusion matrix" not in text
    assert "taken for no " not in text
    assert "speaks for the finding" in text  # maps of what decided
    assert "mean over labels" in made.report("both").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_its_screen(
    page: Path, opened: Browser, size: tuple[int, int], scheme: str
) -> None:
    opened.open(page, size, scheme)
    assert opened.run("document.documentElement.scrollWidth") <= size[0]
    seen = opened.see()
    assert (seen.requested, seen.console) == ([], [])


def test_axe_finds_nothing_serious_of_labels(page: Path, opened: Browser, axe: str) -> None:
    opened.open(page, PHONE, "light")
    opened.run(f"{axe}; 0")
    found = opened.run("axe.run().then(all => all.violations.map(one => [one.impact, one.id]))")
    assert [one for one in found if one[0] in ("serious", "critical")] == []


def test_the_verbs_take_several_labels(
    made: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.root, tmp_path / "w")
    asked = ["--label", "findings", "--separator", "|", "--folds", "3", "-w", str(tmp_path / "w")]
    run_here(["audit", "leaks", "set", *asked])
    run_here(
        [
            "train",
            "set",
            "--plugin",
            "softmax",
            "--no-saliency",
            "--name",
            "text",
            *asked,
            "--threads",
            "1",
            "--device",
            "cpu",
        ]
    )
    told = capsys.readouterr().out
    assert "Effusion" in told
    assert "done before" in told  # the run that Python made is the one that the command asks for
    run_here(["metrics", "text", "-w", str(tmp_path / "w")])
    assert "Mass:" in capsys.readouterr().out
