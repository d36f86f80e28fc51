"""Folds by person: never an empty one, every class in each, the same everywhere."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from medkit.cohort import assignment
from medkit.cohort.assignment import assign_groups, find_missing
from medkit.cohort.division import cut_validation, make_folds, make_inner_folds
from medkit.cohort.folds import Folds, hash_task
from medkit.cohort.joining import join_labels
from medkit.errors import CohortError


def make_table(groups: list[str], labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"image": range(len(groups)), "split_group": groups, "label": labels})


def draw_table(persons: int = 40, classes: str = "ABC", seed: int = 0) -> pd.DataFrame:
    """Persons of 1 to 6 images, mostly of one class."""
    random = np.random.default_rng(seed)
    groups, labels = [], []
    for person in range(persons):
        count = int(random.integers(1, 7))
        groups += [f"{random.integers(2**60):015x}"] * count
        labels += [classes[person % len(classes)]] * (count - 1) + [str(random.choice([*classes]))]
    return make_table(groups, labels)


def check(table: pd.DataFrame, fold: np.ndarray, k: int) -> None:
    """What is promised of all folds."""
    folded = table.assign(fold=fold)
    assert set(fold) == set(range(k))
    assert (folded.groupby("split_group")["fold"].nunique() == 1).all()
    assert (folded.groupby("label")["fold"].nunique() == k).all()


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[pd.DataFrame, int]:
    """Cohorts of a few persons with one or more labels, and a number of folds."""
    k = draw(st.integers(2, 4))
    classes = "ABCD"[: draw(st.integers(2, 4))]
    persons = draw(
        st.lists(
            st.lists(st.sampled_from(classes), min_size=1, max_size=draw(st.integers(1, 6))),
            min_size=k,
            max_size=16,
        )
    )
    pairs = [(f"p{number}", label) for number, own in enumerate(persons) for label in own]
    return make_table([pair[0] for pair in pairs], [pair[1] for pair in pairs]), k


@settings(max_examples=50, deadline=None)
@given(cohorts(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_all_cohorts_give_whole_folds_in_any_order_or_a_reason(
    cohort: tuple[pd.DataFrame, int], seed: int, random: Any
) -> None:
    table, k = cohort
    try:
        fold = make_folds(table, k, seed)
    except CohortError as error:
        persons = table.groupby("label")["split_group"].nunique()
        mixed = (table.groupby("split_group")["label"].nunique() > 1).any()
        assert persons.min() < k or len(persons) < 2 or (mixed and "tie" in str(error))
        return
    check(table, fold, k)
    order = random.sample(range(len(table)), len(table))
    np.testing.assert_array_equal(make_folds(table.iloc[order], k, seed), fold[order])


@settings(max_examples=50, deadline=None)
@given(cohorts())
def test_persons_of_one_label_never_fail_where_there_are_enough(
    cohort: tuple[pd.DataFrame, int],
) -> None:
    table, k = cohort
    single = table.drop_duplicates("split_group")
    table = table.merge(single[["split_group", "label"]], on="split_group", suffixes=("_", ""))
    persons = table.groupby("label")["split_group"].nunique()
    assume(persons.min() >= k and len(persons) >= 2)
    check(table, make_folds(table, k, 0), k)


def test_persons_of_several_labels_are_folded_wherever_that_can_be() -> None:
    """Against every possible assignment of cohorts small enough to try them all."""
    found = possible = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        holds = random.random((int(random.integers(4, 8)), 3)) < 0.5
        counts = (holds[holds.any(axis=1)] * random.integers(1, 5)).astype(np.int64)
        if (counts > 0).sum(axis=0).min(initial=9) < 2:
            continue
        names = [f"p{number}" for number in range(len(counts))]
        bins = assign_groups(counts, names, [0.5, 0.5], [1, 1], 0)
        found += not find_missing(counts, bins, 2).any()
        possible += any(
            not find_missing(counts, np.array(other), 2).any()
            for other in itertools.product(range(2), repeat=len(counts))
        )
    assert found == possible > 100


def test_folds_are_the_same_on_every_machine() -> None:
    """Pinned: folds that a study was made with must be made again years later."""
    persons = [f"person-{number}" for number in range(24)]
    groups = [name for number, name in enumerate(persons) for _ in range(number * 7 % 5 + 1)]
    table = make_table(groups, ["ABC"[int(name[7:]) % 3] for name in groups])
    table = table.assign(fold=make_folds(table, 4, seed=7)).drop_duplicates("split_group")
    assert "".join(map(str, table["fold"])) == "203201031131320112013220"


def test_another_seed_gives_other_folds_also_where_all_sizes_differ() -> None:
    table = make_table(
        [f"p{person}" for person in range(12) for _ in range(person + 1)],
        ["AB"[person % 2] for person in range(12) for _ in range(person + 1)],
    )
    assert len({tuple(make_folds(table, 3, seed)) for seed in range(8)}) > 4


def spread(table: pd.DataFrame, fold: np.ndarray) -> float:
    """scikit-learn's own measure: over the folds, how much the share of each class varies."""
    counts = pd.crosstab(fold, table["label"])
    return float((counts / counts.sum()).std(ddof=0).mean())


@pytest.mark.parametrize("seed", range(12))
def test_classes_are_spread_no_worse_than_by_scikit_learn(seed: int) -> None:
    table = draw_table(persons=20 + 15 * seed, classes="AB" if seed % 2 else "AAAABBC", seed=seed)
    k = 2 + seed % 4
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    other = np.empty(len(table), dtype=int)
    for number, (_, test) in enumerate(
        splitter.split(table, table["label"], groups=table["split_group"])
    ):
        other[test] = number
    assert spread(table, make_folds(table, k, seed)) <= spread(table, other) + 1e-12


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The benchmark that compares with scikit-learn on random cohorts."""
    path = Path(__file__).parent.parent / "benchmarks" / "folds.py"
    spec = importlib.util.spec_from_file_location("benchmark_folds", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count_worse(benchmark: Any, seeds: range) -> int:
    """Return on how many cohorts scikit-learn spreads classes more evenly."""
    worse = 0
    for seed in seeds:
        counts, k = benchmark.draw_counts(np.random.default_rng(seed))
        table = benchmark.make_table(counts)
        folds = (
            make_folds(table, k, seed),
            benchmark.fold_like_scikit_learn(table, k, seed),
        )
        own, other = (benchmark.judge(table, fold, k) for fold in folds)
        assert own[1:] == (0, 0)  # no empty fold, no class that is missing from one
        worse += own[0]["spread"] > other[0]["spread"] + 1e-12
    return worse


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_no_cohort_of_the_benchmark_is_spread_worse(benchmark: Any) -> None:
    assert count_worse(benchmark, range(5000, 5012)) == 0


def test_equal_persons_are_shared_out_exactly() -> None:
    table = make_table([f"p{number}" for number in range(60)], [*("AAB" * 20)])
    counts = pd.crosstab(make_folds(table, 5, 0), table["label"])
    assert (counts["A"] == 8).all() and (counts["B"] == 4).all()


@pytest.mark.parametrize(
    ("groups", "labels", "k", "message"),
    [
        ("abcd", "ABAB", 1, "1 folds cannot be tested"),
        ("abcd", "ABAB", 5, "5 folds are more than the 4 persons; use 2 or fewer"),
        ("aaaa", "ABAB", 2, "all 4 images are of one person"),
        ("abcd", "AAAA", 2, r"the same label \('A'\)"),
        ("abcde", "AAABB", 3, "'B' has 2; use --folds 2, or --min-persons 3"),
        ("abcde", "AAAAB", 2, "'B' has 1; use --min-persons 2"),
        ("", "", 2, "0 of 0 images"),
        # Three persons, each pair of whom shares a class: two folds cannot part every pair.
        ("abbcac", "AABBCC", 2, "tie 'A'|tie 'B'|tie 'C'"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(
    groups: str, labels: str, k: int, message: str
) -> None:
    with pytest.raises(CohortError, match=message):
        make_folds(make_table([*groups], [*labels]), k, 0)


@pytest.mark.parametrize("nobody", [None, ""])
def test_images_without_a_person_are_refused(nobody: str | None) -> None:
    table = make_table(["a", "b", "c", "d"], [*"ABAB"])
    table.loc[1:2, "split_group"] = nobody
    with pytest.raises(CohortError, match=r"2 of 4 labelled images .*--person-regex.*PatientID"):
        make_folds(table, 2, 0)


def test_images_without_a_label_are_refused() -> None:
    table = make_table(["a", "b", "c", "d"], [*"ABAB"])
    table.loc[0, "label"] = None
    with pytest.raises(CohortError, match="1 of 4 images have no label"):
        make_folds(table, 2, 0)


def test_inner_folds_are_as_many_as_the_rarest_class_allows() -> None:
    groups, labels = np.repeat(np.arange(20), 2), np.repeat(np.arange(20) % 7 == 0, 2).astype(int)
    inner = make_inner_folds(groups, labels, 0)
    assert inner is not None and set(inner) == {0, 1, 2}
    assert make_inner_folds(groups, labels, 0, most=2).max() == 1  # type: ignore[union-attr]
    assert make_inner_folds(groups, groups // 19, 0) is None


@settings(max_examples=50, deadline=None)
@given(cohorts(), st.sampled_from([0.05, 0.15, 0.3, 0.5]), st.randoms(use_true_random=False))
def test_a_validation_part_is_never_empty_and_leaves_training_its_classes(
    cohort: tuple[pd.DataFrame, int], share: float, random: Any
) -> None:
    table, _ = cohort
    groups, labels = table["split_group"].to_numpy(), table["label"].to_numpy()
    held = cut_validation(groups, labels, share, 0)
    assert held.any() and not held.all()
    assert not set(groups[held]) & set(groups[~held])
    persons = {name: set(groups[labels == name]) for name in set(labels)}
    spare = [
        person
        for person in set(groups)
        if all(len(own) > 1 for own in persons.values() if person in own)
    ]
    if spare:
        assert set(labels[~held]) == set(labels)
    order = random.sample(range(len(table)), len(table))
    np.testing.assert_array_equal(
        cut_validation(groups[order], labels[order], share, 0), held[order]
    )


def test_a_validation_part_has_about_its_share_of_every_class() -> None:
    table = draw_table(persons=200)
    held = cut_validation(table["split_group"], table["label"], 0.15, 0)
    shares = table.assign(held=held).groupby("label")["held"].mean()
    assert ((shares > 0.14) & (shares < 0.16)).all()


@pytest.mark.parametrize(
    ("groups", "share", "message"), [("aaaa", 0.2, "1 person"), ("abcd", 1.0, "share of 1.0")]
)
def test_a_validation_part_that_cannot_be_cut_is_refused(
    groups: str, share: float, message: str
) -> None:
    with pytest.raises(CohortError, match=message):
        cut_validation([*groups], [*"ABAB"], share, 0)


def test_many_persons_are_dealt_without_a_long_search() -> None:
    """A count of steps, for a cohort on which the search once took minutes a fold."""
    persons = np.array([f"{number:05d}" for number in range(20_000)])
    rare = np.where(np.arange(20_000) < 203, "A", "B")
    steps = 0

    def count(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return find_move(*arguments)

    find_move = assignment._find_move
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_find_move", count)
        held = cut_validation(persons, rare, 0.15, 0)
    assert steps < 1000
    assert abs(held[rare == "A"].mean() - 0.15) < 0.005 > abs(held.mean() - 0.15)


def make_images(groups: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": range(len(groups)),
            "file": [f"f{number}" for number in range(len(groups))],
            "split_group": [*groups],
        }
    )


def make_labels(values: str) -> pd.DataFrame:
    return pd.DataFrame({"file": [f"f{n}" for n in range(len(values))], "value": [*values]})


def test_every_image_is_kept_or_counted() -> None:
    cohort = join_labels(make_images("aabbccddee"), make_labels("AABBABBC"), min_persons=2)
    assert cohort.table["label"].tolist() == [*"AABBABB"]
    assert cohort.dropped == {"unlabelled": 2, "class with few persons": 1}
    assert cohort.small_classes == {"C": 1}
    assert len(cohort.table) + sum(cohort.dropped.values()) == 10


def test_classes_can_be_chosen() -> None:
    cohort = join_labels(make_images("aabbcc"), make_labels("AABBCC"), classes=["C", "A"])
    assert cohort.table["label"].tolist() == [*"AACC"]
    assert cohort.dropped == {"class not chosen": 2}


def test_labels_that_do_not_fit_are_refused() -> None:
    images, labels = make_images("aabb"), make_labels("AABB")
    with pytest.raises(CohortError, match="two labels, such as f0"):
        join_labels(images, pd.concat([labels, labels.head(1)]))
    with pytest.raises(CohortError, match="none of the 4 images has a label: 4 files"):
        join_labels(images, labels.assign(file="elsewhere-" + labels["file"]))
    with pytest.raises(CohortError, match="no image is labelled 'Z'; the classes are 'A', 'B'"):
        join_labels(images, labels, classes=["A", "Z"])
    with pytest.raises(CohortError, match=r"have 3 persons or more.*the largest have 1 and 1"):
        join_labels(images, labels, min_persons=3)
    with pytest.raises(CohortError, match="2 of 4 labelled images have no person"):
        join_labels(images.replace("a", None), labels, min_persons=3)


def make(table: pd.DataFrame | None = None, **changes: Any) -> Folds:
    table = draw_table() if table is None else table
    about = {
        "set_name": "set",
        "set_id": "0" * 16,
        "label": "finding",
        "k": 5,
        "seed": 0,
        **changes,
    }
    return Folds(table.assign(fold=make_folds(table, about["k"], about["seed"])), **about)


def test_folds_are_kept_with_what_they_were_made_from(tmp_path: Path) -> None:
    folds = make()
    path = folds.save(tmp_path)
    assert path.name == f"{folds.key}.parquet" and len(folds.key) == 16
    read = Folds.load(path)
    pd.testing.assert_frame_equal(read.table, folds.table, check_dtype=False)
    assert (read.k, read.seed, read.label, read.classes) == (5, 0, "finding", ("A", "B", "C"))
    assert (read.set_name, read.set_id, read.key) == ("set", "0" * 16, folds.key)
    described = read.describe()
    assert sum(fold["images"] for fold in described) == len(folds.table)
    assert all(fold["images"] == sum(fold["classes"].values()) for fold in described)


def test_the_key_follows_from_the_content_and_not_from_the_order() -> None:
    table = draw_table()
    folds = make(table)
    assert make(table.sample(frac=1, random_state=1)).key == folds.key
    assert hash_task(table, "0" * 16, "finding", 5, 0) == folds.key
    other = table.replace({"label": {"A": "Z"}})
    changed = [make(seed=1), make(k=4), make(label="other"), make(set_id="1" * 16), make(other)]
    assert len({folds.key, *(each.key for each in changed)}) == 6


def test_saving_again_is_nothing_and_equal_folds_are_equal_bytes(tmp_path: Path) -> None:
    table = draw_table()
    first = make(table).save(tmp_path / "a")
    second = make(table.sample(frac=1, random_state=1)).save(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    make(table).save(tmp_path / "a")
    assert first.stat().st_mtime_ns == before


def test_other_folds_under_the_same_key_are_refused(tmp_path: Path) -> None:
    folds = make()
    folds.save(tmp_path)
    table = folds.table.assign(fold=(folds.table["fold"] + 1) % 5)
    with pytest.raises(CohortError, match="never changed"):
        Folds(table, "set", "0" * 16, "finding", 5, 0).save(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "bare", "changed", "renamed"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, damage: str) -> None:
    path = make().save(tmp_path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("image,fold")
    elif damage == "renamed":
        path = path.rename(tmp_path / ("0" * 16 + ".parquet"))
    else:
        table = pq.read_table(path)
        labels = table["label"].to_pylist()
        changed = table.set_column(2, "label", [labels[::-1]])
        kept = table.schema.metadata if damage == "changed" else None
        pq.write_table(changed.replace_schema_metadata(kept), path)
    with pytest.raises(CohortError, match=r"is missing|no file of folds|was changed"):
        Folds.load(path)
