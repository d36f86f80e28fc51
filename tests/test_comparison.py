"""Runs on the same folds: their difference, paired by person, and what can be said of many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import run_here
from hypothesis import given
from hypothesis import strategies as st

from medkit.cli.compare import tell_ranking
from medkit.errors import UsageError
from medkit.evaluation.comparison import (
    compare_runs,
    contrast_runs,
    correct,
    permute,
    rank_runs,
    require_same_folds,
)
from medkit.evaluation.evidence import Evidence, read_evidence
from medkit.evaluation.pairing import align_runs, score
from medkit.evaluation.repeats import find_repeats, require_repeats, summarise_repeats
from medkit.statistics.intervals import resample_persons
from medkit.statistics.metrics import NAMES, Measured
from medkit.statistics.outcomes import Notes, Outcomes, estimate
from medkit.workspace import Workspace, read_json, write_json

CLASSES = ["CT", "MR"]
METRICS = {
    "headline": "balanced_accuracy",
    "metrics": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}},
    "baselines": {"majority_class": {"balanced_accuracy": 0.5}},
}


def write_run(workspace: Workspace, name: str, seed: int = 0, key: str = "0" * 16) -> Evidence:
    """Write what is compared of a run: 24 persons with two images each, in three folds."""
    person = np.arange(48) // 2
    logits = np.random.default_rng(len(name)).normal(0, 1, (48, 2))
    logits[np.arange(48), person % 2] += 1.7
    stated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(
        {
            "image": np.arange(48),
            "person": [f"{one:016x}" for one in person],
            "label": [CLASSES[one % 2] for one in person],
            "predicted": [CLASSES[one] for one in stated.argmax(axis=1)],
            "fold": person % 3,
            **{f"p:{name}": stated[:, column] for column, name in enumerate(CLASSES)},
        }
    )
    folder = workspace.run(name)
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "metrics.json", METRICS)
    asked = {"plugin": "softmax", "params": {}, "set": "set", "set_id": "0" * 16, "label": "kind"}
    told = {"classes": CLASSES, "positive": None, "folds_key": key, "k": 3, "seed": seed}
    told |= {"name": name, "leaks": {}}
    write_json(folder / "run.json", asked | told)
    return read_evidence(folder, workspace)


@pytest.fixture
def runs(workspace: Workspace) -> list[Evidence]:
    """Two runs that differ in what they predict."""
    return [write_run(workspace, name) for name in ("one", "another")]


def predictions(run: Evidence) -> pd.DataFrame:
    assert run.predictions is not None
    return run.predictions


def contrast(runs: list[Evidence], metric: str = "balanced_accuracy") -> dict[str, Any]:
    return contrast_runs(runs, metric, draws=200, permutations=200)


def answer_rightly(run: Evidence, name: str, share: float) -> Evidence:
    """Return a run that is right of a share of the persons, wrong of the others."""
    table = predictions(run).copy()
    persons = sorted(table["person"].unique())
    right = table["person"].isin(persons[: round(share * len(persons))])
    other = table["label"].map(dict(zip(run.classes, run.classes[::-1], strict=True)))
    table["predicted"] = table["label"].where(right, other)
    for column in run.classes:
        table[f"p:{column}"] = np.where(table["predicted"] == column, 0.9, 0.1)
    return replace(run, folder=Path(name), predictions=table)


def test_the_difference_is_that_of_scikit_learn_on_the_same_persons(runs: list[Evidence]) -> None:
    from sklearn.metrics import balanced_accuracy_score

    first, other = map(predictions, runs)
    persons = first["person"].to_numpy(str)
    weights = np.concatenate(list(resample_persons(persons, runs[0].run["seed"], 200)))
    drawn = [
        balanced_accuracy_score(first["label"], first["predicted"], sample_weight=row)
        - balanced_accuracy_score(other["label"], other["predicted"], sample_weight=row)
        for row in weights
    ]
    (found,) = contrast(runs)["pairs"]
    # By the intervals of every other number (BCa, widened): near the percentiles here.
    assert [found["low"], found["high"]] == pytest.approx(
        np.quantile(drawn, [0.02, 0.98]), abs=0.05
    )
    assert min(drawn) <= found["low"] < found["difference"] < found["high"] <= max(drawn)
    assert found["difference"] == pytest.approx(
        balanced_accuracy_score(first["label"], first["predicted"])
        - balanced_accuracy_score(other["label"], other["predicted"])
    )
    # The page shows it from the other side.
    compared = compare_runs(runs)
    assert compared is not None and compared["rows"][0]["difference"] is None
    assert compared["rows"][1]["difference"]["value"] == pytest.approx(-found["difference"])


def test_p_is_that_of_swapping_whole_persons_one_by_one(runs: list[Evidence]) -> None:
    """Against a loop that swaps rows and asks scikit-learn, over all 2^7 swaps of seven persons."""
    from sklearn.metrics import log_loss

    kept = sorted(predictions(runs[0])["person"].unique())[:7]
    few = [
        replace(run, predictions=predictions(run)[predictions(run)["person"].isin(kept)])
        for run in runs
    ]
    one, other = align_runs(few)
    persons = np.unique(one.persons)

    def differ(swapped: np.ndarray) -> float:
        rows = np.isin(one.persons, persons[swapped])[:, None]
        first, second = (
            log_loss(one.labels, np.where(rows, a, b), labels=[0, 1])
            for a, b in (
                (other.probabilities, one.probabilities),
                (one.probabilities, other.probabilities),
            )
        )
        return float(first - second)

    every = [differ((number >> np.arange(7)) % 2 == 1) for number in range(128)]
    exact = np.mean(np.abs(every) >= abs(every[0]) - 1e-12)
    found = permute([one], [other], "log_loss", seed=0, tosses=20_000)
    assert found == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize("metric", NAMES)
def test_each_metric_alone_is_that_of_all_together(runs: list[Evidence], metric: str) -> None:
    for one in align_runs(runs):
        weights = np.concatenate(list(resample_persons(one.persons, 0, 20)))
        np.testing.assert_allclose(
            score(one, metric, weights), one.measure(weights).metrics[metric], atol=1e-12
        )


def draw_pair(seed: int, persons: int = 40, images: int = 4, better: float = 0.0) -> list[Outcomes]:
    """Return two models whose errors of one person go together."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(persons) % 2, images)

    def model(signal: float) -> Outcomes:
        own = np.repeat(random.normal(0, 1, persons), images) + random.normal(0, 1, len(labels))
        positive = 1 / (1 + np.exp(-(own + signal * (2 * labels - 1))))
        both = np.stack([1 - positive, positive], axis=1)
        names = np.repeat([f"p{number}" for number in range(persons)], images)
        return Outcomes(labels, both, names, ["no", "yes"])

    return [model(0.7 + better), model(0.7)]


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auc", "log_loss"])
def test_of_models_that_are_alike_few_are_called_different(metric: str) -> None:
    """At 5 %, of 200 pairs: 23 or more would be chance in fewer than 1 of 1,000 such tests."""
    ps = [
        permute(*([one] for one in draw_pair(seed)), metric, seed=seed, tosses=199)
        for seed in range(200)
    ]
    assert sum(p <= 0.05 for p in ps if p is not None) < 23


def test_of_models_that_differ_most_are_called_different() -> None:
    pairs = (draw_pair(seed, better=1.5) for seed in range(40))
    ps = [permute(*([one] for one in pair), "auc", seed=0, tosses=199) for pair in pairs]
    assert sum(p <= 0.05 for p in ps if p is not None) > 30


def test_scores_on_another_scale_do_not_change_an_order() -> None:
    """Else a model that is as good, but surer, would be called different by its AUC."""
    one, other = draw_pair(0)
    surer = replace(other, probabilities=np.clip(other.probabilities, 0, 1) ** 3)
    found = [permute([one], [each], "auc", seed=0, tosses=500) for each in (other, surer)]
    assert found[0] == found[1]


def test_tiers_part_only_what_was_shown_to_differ(runs: list[Evidence]) -> None:
    made = [
        answer_rightly(runs[0], name, share)
        for name, share in (("half", 0.5), ("best", 1.0), ("good", 0.96), ("less", 0.54))
    ]
    found = contrast(made)
    assert found["ranking"] == [["best", "good"], ["less", "half"]]
    apart = {(pair["first"], pair["second"]) for pair in found["pairs"] if pair["separable"]}
    assert apart == {("half", "best"), ("half", "good"), ("best", "less"), ("good", "less")}
    assert contrast(made[:1] + made[3:])["ranking"] == [["less", "half"]]
    assert "6 pairs" in found["method"]


def test_of_a_loss_the_smallest_comes_first(runs: list[Evidence]) -> None:
    made = [answer_rightly(runs[0], "worst", 0.1), answer_rightly(runs[0], "best", 1.0)]
    assert contrast(made, "log_loss")["ranking"] == [["best"], ["worst"]]
    assert contrast(made, "auc")["ranking"] == [["best"], ["worst"]]


def test_a_run_between_two_others_keeps_them_in_one_tier() -> None:
    """a differs from c, but neither from b: an order of tiers would say more than was shown."""
    pairs = [
        {"first": a, "second": b, "separable": {a, b} == {"a", "c"}}
        for a, b in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    assert rank_runs(["a", "b", "c"], [0.9, 0.8, 0.7], pairs) == [["a", "b", "c"]]
    assert rank_runs(["b", "a"], [None, 0.9], []) == [["a", "b"]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_corrects_as_statsmodels_describes_it(ps: list[float]) -> None:
    """Against the definition: the largest of (m - j + 1) p_j over all that are no larger."""
    found = correct(ps)
    for p, corrected in zip(ps, found, strict=True):
        steps = [
            min(1.0, (len(ps) - sum(q < r or (q == r and i < j) for i, q in enumerate(ps))) * r)
            for j, r in enumerate(ps)
            if r <= p
        ]
        assert corrected == pytest.approx(max(steps))
    assert correct([0.01, None, 0.04]) == [0.02, None, 0.04]


def test_the_order_of_rows_does_not_matter(runs: list[Evidence]) -> None:
    shuffled = predictions(runs[1]).sample(frac=1, random_state=0)
    assert contrast([runs[0], replace(runs[1], predictions=shuffled)]) == contrast(runs)


def test_a_run_differs_by_nothing_from_its_copy(runs: list[Evidence]) -> None:
    copy = replace(runs[0], folder=Path("copy"))
    (pair,) = contrast([runs[0], copy])["pairs"]
    assert (pair["difference"], pair["low"], pair["high"], pair["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert not pair["separable"]


def test_a_class_of_one_person_leaves_no_interval(runs: list[Evidence]) -> None:
    table = predictions(runs[0]).assign(label="MR", predicted="MR")
    table.loc[table["person"] == table["person"].iloc[0], "label"] = "CT"
    lonely = [replace(run, predictions=table) for run in runs]
    (pair,) = contrast(lonely)["pairs"]
    assert (pair["difference"], pair["low"], pair["high"]) == (0.0, None, None)


def test_a_run_without_a_number_has_a_row(runs: list[Evidence]) -> None:
    without = replace(runs[1], metrics=None, predictions=None)
    compared = compare_runs([without, runs[0]])
    assert compared is not None
    assert [row["values"] == {} for row in compared["rows"]] == [True, False]
    assert compared["first"] == "one" and compared["contrast"] is None
    assert compare_runs([without, without]) is None
    with pytest.raises(UsageError, match="no predictions yet: another"):
        contrast([runs[0], without])


def test_runs_with_another_positive_class_do_not_stand_side_by_side(runs: list[Evidence]) -> None:
    other = replace(runs[1], run={**runs[1].run, "positive": runs[0].classes[0]})
    with pytest.raises(UsageError, match=f"another is for '{runs[0].classes[0]}'"):
        require_same_folds([runs[0], other])


def test_runs_on_other_folds_are_not_compared(runs: list[Evidence]) -> None:
    other = replace(runs[1], run={**runs[1].run, "folds_key": "fedcba9876543210"})
    with pytest.raises(UsageError, match="another on fedcba9876543210"):
        contrast([runs[0], other])


@pytest.mark.parametrize("column", ["image", "person", "label"])
def test_runs_on_other_images_are_not_compared(runs: list[Evidence], column: str) -> None:
    """What a folder was made to say by hand does not count."""
    table = predictions(runs[1]).copy()
    table[column] = table[column].to_numpy()[::-1]
    with pytest.raises(UsageError, match="another did not predict the same images, persons"):
        contrast([runs[0], replace(runs[1], predictions=table)])


def test_what_cannot_be_compared_is_refused(runs: list[Evidence]) -> None:
    with pytest.raises(UsageError, match="no metric 'dice'; there are: accuracy, balanced"):
        contrast(runs, "dice")
    for alone in (runs[:1], [runs[0], runs[0]]):
        with pytest.raises(UsageError, match="two runs or more, each of them once"):
            contrast(alone)


def test_the_command_says_when_runs_are_not_separable(
    workspace: Workspace, runs: list[Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(["compare", "one", "another", "--metric", "auc", "-w", str(workspace.root)])
    told = "".join(capsys.readouterr())
    assert "Not separable: none of these runs was shown" in told
    assert tell_ranking([["a"], ["b"]]) == "a is better than all others."
    assert "from one another, but better than all others: a, b" in tell_ranking([["a", "b"], ["c"]])


def repeat(workspace: Workspace) -> list[Evidence]:
    return [
        write_run(workspace, name, seed, f"{seed:016x}")
        for seed, name in enumerate(("one", "another", "the-third"))
    ]


def test_a_mean_over_repeats_is_drawn_with_the_same_persons(workspace: Workspace) -> None:
    from sklearn.metrics import accuracy_score

    runs = repeat(workspace)
    summary = summarise_repeats(runs)
    accuracy = summary["metrics"]["accuracy"]
    tables = [predictions(run) for run in runs]
    values = [accuracy_score(table["label"], table["predicted"]) for table in tables]
    assert accuracy["values"] == pytest.approx(values)
    assert accuracy["value"] == pytest.approx(np.mean(values))
    # The mean accuracy of repeats is the accuracy of their rows together, paired by person.
    rows = pd.concat(tables)
    right = (rows["label"] == rows["predicted"]).to_numpy(float)
    both = estimate(
        lambda weights: Measured({"mean": (weights * right).sum(-1) / weights.sum(-1)}, {}),
        rows["person"].to_numpy(str),
        0,
        2000,
    ).describe(Notes())["mean"]
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((both["low"], both["high"]))
    assert accuracy["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_runs_that_differ_by_more_than_the_seed_are_no_repeats(workspace: Workspace) -> None:
    runs = repeat(workspace)
    other = replace(runs[1], run={**runs[1].run, "plugin": "cnn"})
    with pytest.raises(UsageError, match="differ in nothing but the seed; plugin: one softmax, an"):
        require_repeats([runs[0], other])


def write_family(workspace: Workspace, stem: str, plugin: str) -> list[str]:
    """Write three repeats of one trainer, each on folds of its own."""
    for number in (1, 2, 3):
        name = f"{stem}-r{number}"
        write_run(workspace, name, seed=number, key=str(number) * 16)
        path = workspace.run(name) / "run.json"
        write_json(path, read_json(path) | {"plugin": plugin})
        table = pd.read_parquet(workspace.run(name) / "predictions.parquet")
        table["p:MR"] = (table["p:MR"] + number / 50).clip(0, 1)
        table["p:CT"] = 1 - table["p:MR"]
        table.to_parquet(workspace.run(name) / "predictions.parquet", index=False)
    return find_repeats(stem, workspace)


def test_families_of_repeats_are_compared_by_their_means(workspace: Workspace) -> None:
    names = [*write_family(workspace, "one", "softmax"), *write_family(workspace, "others", "cnn")]
    assert names[:3] == ["one-r1", "one-r2", "one-r3"]
    every = [read_evidence(workspace.run(name), workspace) for name in names]
    found = contrast_runs(every, "brier", draws=100, permutations=200)
    assert found["runs"] == ["one", "others"]
    single = [align_runs([run])[0].measure().metrics["brier"] for run in every]
    assert found["rows"][0]["value"] == pytest.approx(np.mean(single[:3]))
    (pair,) = found["pairs"]
    assert pair["difference"] == pytest.approx(np.mean(single[:3]) - np.mean(single[3:]))
    assert pair["low"] < pair["difference"] < pair["high"]
    assert "family of 3" in found["method"]
    # Whose order is whose does not matter, and a family lacks none of the others' folds.
    assert contrast_runs(every[::-1], "brier", draws=100, permutations=200)["rows"][1] == (
        pytest.approx(found["rows"][0])
    )
    with pytest.raises(UsageError, match="only on the same folds"):
        contrast_runs(every[:5], "brier")
    with pytest.raises(UsageError, match="only on the same folds"):
        contrast_runs(every[:3], "brier")
