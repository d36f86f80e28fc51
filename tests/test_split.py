"""Splits beyond k folds: what is held out, what else is even, and folds that were given."""

from __future__ import annotations

import itertools
import json
import random as plain_random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import make_workspace, run_here
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_folds import check, cohorts, draw_table, make_table, spread

from medkit.cohort import split as split_module
from medkit.cohort.division import HELD_OUT, cut_validation, divide, list_given, make_folds
from medkit.cohort.folds import Folds, hash_task
from medkit.cohort.leaks import find_leaks
from medkit.cohort.preparation import prepare_folds
from medkit.cohort.split import Split, list_lacking
from medkit.errors import CohortError, UsageError
from medkit.images.imageset import ImageSet
from medkit.workspace import Workspace, read_json

NAMES = ("set", "0" * 16, "finding")


def hold_out(table: pd.DataFrame, share: float = 0.25, k: int = 3, seed: int = 0) -> Folds:
    return Folds.part(table.assign(fold=divide(table, k, seed, share)), *NAMES, k, seed, share)


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.sampled_from([0.1, 0.2, 0.4]), st.randoms(use_true_random=False))
def test_what_is_held_out_has_every_class_and_nobody_of_the_folds(
    cohort: tuple[pd.DataFrame, int], share: float, random: plain_random.Random
) -> None:
    table, k = cohort
    try:
        fold = divide(table, k, 0, share)
    except CohortError:
        persons = table.groupby("label")["split_group"].nunique()
        mixed = (table.groupby("split_group")["label"].nunique() > 1).any()
        # One class may have just the k + 1 that are asked for, and lose more to the share.
        assert persons.min() <= k / (1 - share) + 2 or len(persons) < 2 or mixed
        return
    held = fold == HELD_OUT
    check(table[~held], fold[~held], k)
    assert set(table.loc[held, "label"]) == set(table["label"])
    assert not set(table.loc[held, "split_group"]) & set(table.loc[~held, "split_group"])
    order = random.sample(range(len(table)), len(table))
    np.testing.assert_array_equal(divide(table.iloc[order], k, 0, share), fold[order])


def test_what_is_held_out_is_the_same_for_other_folds_and_seeds() -> None:
    """Else a second run could train on what a first one held out."""
    table = draw_table(persons=90)
    found = [hold_out(table, k=k, seed=seed) for k in (2, 3, 5) for seed in range(3)]
    assert len({folds.held_out_id for folds in found}) == 1
    assert len({folds.key for folds in found}) == 9
    assert hold_out(table, 0.3).held_out_id != found[0].held_out_id
    assert not hold_out(table, 0.0).describe_held_out()


def test_a_held_out_part_has_about_its_share_of_every_class() -> None:
    table = draw_table(persons=300)
    held = divide(table, 5, 0, 0.2) == HELD_OUT
    shares = table.assign(held=held).groupby("label")["held"].mean()
    assert ((shares > 0.19) & (shares < 0.21)).all()


def test_nothing_of_what_is_held_out_is_in_the_table_of_the_folds(tmp_path: Path) -> None:
    folds = hold_out(draw_table(persons=60))
    assert set(folds.table["fold"]) == {0, 1, 2}
    assert set(folds.held_out["fold"]) == {HELD_OUT}
    assert len(folds.everybody) == len(draw_table(persons=60))
    read = Folds.load(folds.save(tmp_path))
    pd.testing.assert_frame_equal(read.table, folds.table, check_dtype=False)
    pd.testing.assert_frame_equal(read.held_out, folds.held_out, check_dtype=False)
    assert read.describe_held_out() == folds.describe_held_out()


def test_too_few_persons_to_hold_some_out_are_refused() -> None:
    table = make_table([f"p{n}" for n in range(12)], [*"AAAAAAAAABBB"])
    with pytest.raises(CohortError, match=r"need 4 persons of every class, but 'B' has 3"):
        divide(table, 3, 0, 0.2)
    with pytest.raises(CohortError, match=r"who are not held out: .*'B' has 2"):
        divide(make_table([f"p{n}" for n in range(12)], [*"AAAAAAAABBBB"]), 3, 0, 0.5)


def test_folds_without_more_keep_the_keys_of_earlier_versions() -> None:
    """Pinned: a study's folds are found again."""
    table = make_table([*"abcdefgh"], [*"ABABABAB"])
    assert hash_task(table, *NAMES[1:], 2, 0) == "00c57c07224ceec2"
    more = table.assign(**{"stratum:site": [*"xxyyxxyy"]})
    keys = {
        hash_task(table, *NAMES[1:], 2, 0),
        hash_task(table, *NAMES[1:], 2, 0, 0.2),
        hash_task(more, *NAMES[1:], 2, 0),
        hash_task(more.rename(columns={"stratum:site": "stratum:sex"}), *NAMES[1:], 2, 0),
        hash_task(table.assign(given=[*"01010101"]), *NAMES[1:], 2, 0),
    }
    assert len(keys) == 5


def draw_sites(seed: int, persons: int = 80) -> pd.DataFrame:
    """Persons of several sites, some of which see one class more often."""
    random = np.random.default_rng(seed)
    table = draw_table(persons, "AAB", seed)
    sites = random.choice([*"wxyz"], len(table), p=[0.4, 0.3, 0.2, 0.1])
    first = table.assign(site=sites).groupby("split_group")["site"].first()
    return table.assign(**{"stratum:site": table["split_group"].map(first)})


@pytest.mark.parametrize("seed", range(6))
def test_a_second_stratum_is_evened_out_and_costs_the_classes_little(seed: int) -> None:
    table = draw_sites(seed)
    plain = make_folds(table.drop(columns="stratum:site"), 5, seed)
    fold = make_folds(table, 5, seed)
    check(table, fold, 5)
    site = table.assign(label=table["stratum:site"])
    assert spread(site, fold) < spread(site, plain) / 2
    assert spread(table, fold) < spread(table, plain) + 0.002


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(6))
def test_label_and_site_are_spread_no_worse_than_by_scikit_learn(seed: int) -> None:
    """Against StratifiedGroupKFold on the label and the site joined, which is how one does it."""
    from sklearn.model_selection import StratifiedGroupKFold

    table = draw_sites(seed)
    joined = table["label"] + table["stratum:site"]
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
    other = np.empty(len(table), dtype=int)
    for number, (_, test) in enumerate(splitter.split(table, joined, table["split_group"])):
        other[test] = number
    own = make_folds(table, 4, seed)
    site = table.assign(label=table["stratum:site"])
    assert spread(table, own) <= spread(table, other) + 1e-12
    both = [spread(table, fold) + spread(site, fold) for fold in (own, other)]
    assert both[0] <= both[1] + 1e-12


def test_folds_with_a_stratum_follow_from_names_and_not_from_rows() -> None:
    table = draw_sites(0)
    fold = make_folds(table, 4, 0)
    order = np.random.default_rng(1).permutation(len(table))
    np.testing.assert_array_equal(make_folds(table.iloc[order], 4, 0), fold[order])


@settings(max_examples=20, deadline=None)
@given(cohorts(), st.randoms(use_true_random=False))
def test_folds_do_not_follow_from_what_images_are_called(
    cohort: tuple[pd.DataFrame, int], random: plain_random.Random
) -> None:
    """Nor from how many a path brought before: persons, labels and the seed alone decide."""
    table, k = cohort
    names = random.sample(range(10_000), len(table))
    try:
        fold = make_folds(table, k, 0)
    except CohortError:
        assume(False)
    moved = table.assign(image=names, path=[f"elsewhere/{name}.dcm" for name in names])
    np.testing.assert_array_equal(make_folds(moved, k, 0), fold)


def test_images_of_several_labels_or_none_are_evened_out() -> None:
    random = np.random.default_rng(0)
    persons = np.repeat([f"p{n}" for n in range(150)], 3)
    has = random.random((450, 4)) < [0.5, 0.3, 0.1, 0.05]
    labels = [tuple(name for name, one in zip("abcd", row, strict=True) if one) for row in has]
    table = make_table(list(persons), labels)  # type: ignore[arg-type]
    fold = make_folds(table, 5, 0)
    assert (table.assign(fold=fold).groupby("split_group")["fold"].nunique() == 1).all()
    for column in (*has.T, ~has.any(axis=1)):
        counts = np.bincount(fold[column], minlength=5)
        assert counts.min() > 0 and counts.max() - counts.min() <= 1 + 0.03 * column.sum()
    order = random.permutation(len(table))
    np.testing.assert_array_equal(make_folds(table.iloc[order], 5, 0), fold[order])
    assert 0.1 < cut_validation(persons, table["label"], 0.15, 0).mean() < 0.2


def test_one_label_in_a_collection_is_that_label() -> None:
    table = draw_table()
    listed = table.assign(label=[[label] for label in table["label"]])
    np.testing.assert_array_equal(make_folds(listed, 4, 0), make_folds(table, 4, 0))


@settings(max_examples=30, deadline=None)
@given(cohorts(), st.integers(0, 3))
def test_nested_folds_are_by_person_and_leave_the_tested_fold_out(
    cohort: tuple[pd.DataFrame, int], seed: int
) -> None:
    table, k = cohort
    try:
        folds = Folds(table.assign(fold=make_folds(table, k, seed)), *NAMES, k, seed)
    except CohortError:
        assume(False)
    for fold in range(k):
        inner = folds.nest(fold, seed)
        if inner is None:
            continue
        tested = (folds.table["fold"] == fold).to_numpy()
        assert (inner[tested] == -1).all() and (inner[~tested] >= 0).all()
        part = folds.table[~tested]
        check(part, inner[~tested], inner.max() + 1)


def test_given_folds_are_in_the_order_of_their_numbers() -> None:
    table = pd.DataFrame({"given": ["10", "2", "1", "site-10", "site-9", "", "held-out"]})
    assert list_given(table) == ["1", "2", "10", "site-9", "site-10"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Twelve persons with two images each, of alternating labels and three sites."""
    folder = tmp_path_factory.mktemp("prepared")
    workspace = Workspace(make_workspace(folder, persons=12))
    label(workspace, folder, "site", lambda person: ["north", "south", "west"][person // 2 % 3])
    return workspace


def write_csv(folder: Path, column: str, value: Any) -> Path:
    rows = [f"P{person:03d},{value(person)}" for person in range(12)]
    path = folder / f"{column}.csv"
    path.write_text("\n".join([f"PatientID,{column}", *rows]) + "\n")
    return path


def label(workspace: Workspace, folder: Path, name: str, value: Any) -> None:
    path = write_csv(folder, name, value)
    run_here(["label", name, "--csv", str(path), "-w", str(workspace.root)])


def prepare(workspace: Workspace, k: int = 2, **split: Any) -> Any:
    return prepare_folds(workspace, "set", "animal", k, 0, None, None, Split(**split))


def test_every_site_is_left_out_once(prepared: Workspace) -> None:
    found = prepare(prepared, by="site")
    assert found.folds.names == ["north", "south", "west"]
    assert found.folds.k == 3
    described = found.describe()["folds"]
    assert [fold["name"] for fold in described] == ["north", "south", "west"]
    assert [fold["persons"] for fold in described] == [4, 4, 4]
    again = Folds.load(prepared.folds / f"{found.folds.key}.parquet")
    assert again.names == found.folds.names


def test_folds_can_be_by_a_column_of_the_set_or_a_tag_of_the_catalog(prepared: Workspace) -> None:
    with pytest.raises(UsageError, match=r"same value of 'Rows', '32'"):
        prepare(prepared, by="Rows")
    with pytest.raises(UsageError, match="same value of 'BitsAllocated', '16'"):
        prepare(prepared, by="BitsAllocated")
    with pytest.raises(CohortError, match="class 'yak' is in the fold 'MR' of 'Modality' alone"):
        prepare(prepared, by="Modality")
    with pytest.raises(UsageError, match=r"no column 'Ward'.*PatientSex.*'animal', 'site'"):
        prepare(prepared, by="Ward")


def test_a_column_may_be_even_between_folds(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = prepare(prepared, stratify=("site",)).folds.table
    assert (pd.crosstab(table["fold"], table["stratum:site"]) == 4).all(axis=None)
    monkeypatch.setattr(split_module, "_MOST_LEVELS", 23)
    with pytest.raises(UsageError, match=r"has 24 values, and at most 23 .* label ranges"):
        prepare(prepared, stratify=("SOPInstanceUID",))


def test_folds_are_taken_from_a_table(prepared: Workspace, tmp_path: Path) -> None:
    path = write_csv(tmp_path, "fold", lambda person: person // 2 % 4)
    folds = prepare(prepared, given=str(path)).folds
    assert (folds.k, folds.names) == (4, ["0", "1", "2", "3"])
    label(prepared, tmp_path, "fold", lambda person: person // 2 % 4)
    assert prepare(prepared, given="fold").folds.key == folds.key


def test_what_is_called_test_is_held_out(prepared: Workspace, tmp_path: Path) -> None:
    parts = ["train", "train", "val", "val", "Test", "Test"]
    path = write_csv(tmp_path, "split", lambda person: parts[person % 6])
    folds = prepare(prepared, given=str(path)).folds
    assert (folds.k, folds.names) == (2, ["0", "1"])
    assert folds.held_out["split_group"].nunique() == 4
    described = folds.describe_held_out()
    assert described and described["classes"] == {"yak": 4, "zebra": 4}
    mixed = write_csv(
        tmp_path, "fold", lambda person: ["1", "1", "2", "2", "test", "test"][person % 6]
    )
    folds = prepare(prepared, given=str(mixed)).folds
    assert (folds.k, folds.names, len(folds.held_out)) == (2, ["1", "2"], 8)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (lambda n: ["train", "train", "1", "1"][n % 4], UsageError, "either divided into folds"),
        (lambda n: "test", UsageError, "leaves none to train on"),
        (lambda n: "1", UsageError, "same value of .*'1'"),
        (lambda n: n % 2, CohortError, "class 'yak' is in the fold '1' of .* alone"),
        (lambda n: "x" if n == 5 else "", UsageError, "same value of .*'x'"),
    ],
)
def test_given_folds_that_cannot_be_are_refused(
    prepared: Workspace, tmp_path: Path, value: Any, error: type[Exception], message: str
) -> None:
    path = write_csv(tmp_path, "fold", value)
    with pytest.raises(error, match=message):
        prepare(prepared, given=str(path))


def test_a_person_in_two_given_folds_is_refused(prepared: Workspace, tmp_path: Path) -> None:
    """Two images of each person, one in each fold: the split that image-wise splitters make."""
    table = pd.read_parquet(prepared.set("set") / "images.parquet")
    rows = table.assign(fold=table.groupby("split_group").cumcount())[["SOPInstanceUID", "fold"]]
    rows.to_csv(tmp_path / "fold.csv", index=False)
    with pytest.raises(CohortError, match=r"12 persons are in several folds .*\(24 images\)") as no:
        prepare(prepared, given=str(tmp_path / "fold.csv"))
    assert " in '0' and " in str(no.value) and " in '1'; give each person one" in str(no.value)


def test_images_without_a_fold_are_set_aside_and_counted(
    prepared: Workspace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path, "fold", lambda n: "" if n < 2 else n // 2 % 2)
    found = prepare(prepared, given=str(path))
    assert found.cohort.dropped == {"no value of fold.csv": 4}
    assert len(found.folds.table) == 20


def test_a_fold_that_lacks_a_class_is_named(prepared: Workspace, tmp_path: Path) -> None:
    parts = ["a", "b", "a", "c", "a", "b", "b", "b", "c", "c", "b", "b"]
    path = write_csv(tmp_path, "fold", lambda person: parts[person])
    folds = prepare(prepared, given=str(path)).folds
    assert list_lacking(folds.table, folds.names) == [
        "the fold 'a' has no image of 'yak', so that its own metrics do not speak of them"
    ]
    assert list_lacking(*((f := prepare(prepared).folds).table, f.names)) == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"hold_out": 0.9}, "0 to 0.5, such as 0.2, not 0.9"),
        ({"by": "site", "given": "fold"}, "give one of both"),
        ({"by": "site", "stratify": ("sex",)}, "nothing is left to --stratify"),
    ],
)
def test_contradictions_are_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Split(**split)


def test_sites_are_left_out_one_by_one_of_what_is_not_held_out(prepared: Workspace) -> None:
    folds = prepare(prepared, k=2, by="site", hold_out=0.3).folds
    assert folds.names == ["north", "south", "west"]
    assert not folds.held_out.empty
    assert not set(folds.held_out["split_group"]) & set(folds.table["split_group"])


def test_a_copy_on_the_held_out_side_is_a_leak(prepared: Workspace) -> None:
    """What is held out is one more side of the audit."""
    found = prepare(prepared, hold_out=0.3)
    assert found.leaks.ok and found.leaks.images == 24
    images = ImageSet.open(prepared.set("set")).table.copy()
    pair = [found.folds.table["image"].iloc[0], found.folds.held_out["image"].iloc[0]]
    images.loc[images["image"].isin(pair), "source_sha256"] = "same"
    leaks = find_leaks(images, found.folds)
    assert [finding.kind for finding in leaks.exact] == ["source_sha256"]


def test_the_audit_shows_what_is_held_out(prepared: Workspace, call_cli: Any) -> None:
    arguments = ("audit", "leaks", "set", "--label", "animal", "--folds", "2", "-w", prepared.root)
    done = call_cli(*arguments, "--hold-out", "0.3", "--stratify", "site")
    assert done.exit_code == 0, done.stderr
    assert "held out" in done.stdout
    told = json.loads(call_cli(*arguments, "--folds-by", "site", "--json").stdout)
    assert [fold["name"] for fold in told["folds"]] == ["north", "south", "west"]
    assert told["held_out"] is None
    refused = call_cli(*arguments, "--folds-by", "site", "--folds-from", "fold")
    assert refused.exit_code == 2 and "give one of both" in refused.stderr


def test_seeds_of_repeats_give_folds_that_hold_out_the_same(prepared: Workspace) -> None:
    made = [
        prepare_folds(prepared, "set", "animal", 2, seed, None, None, Split(0.3)).folds
        for seed in range(3)
    ]
    assert len({folds.key for folds in made}) == 3
    assert len({folds.held_out_id for folds in made}) == 1
    pairs = itertools.pairwise(made)
    assert any((a.table["fold"] != b.table["fold"]).any() for a, b in pairs)
    assert read_json(prepared.audits / f"{made[0].key}.json")["ok"]
