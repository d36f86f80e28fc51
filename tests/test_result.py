"""What a fold leaves: predictions that are probabilities, a seal that finds changes, looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.errors import TrainingError
from medkit.training.result import (
    check_seal,
    describe_predictions,
    is_sealed,
    make_model_folder,
    open_looks,
    read_looks,
    read_probabilities,
    seal_fold,
    summarise_looks,
)


@pytest.fixture
def fold(tmp_path: Path) -> Path:
    """The folder of a fold, as a fit leaves it."""
    folder = tmp_path / "fold-0"
    (make_model_folder(folder) / "weights.npy").write_bytes(b"weights")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch.npz").write_bytes(b"epoch")
    (folder / "trainer.json").write_text("{}")
    np.save(folder / "predictions.npy", np.full((4, 2), 0.5, dtype=np.float32))
    open_looks(folder)({"epoch": 0, "value": -0.5, "chosen": True})
    return folder


def test_rows_are_made_to_sum_to_one_in_float64(tmp_path: Path) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(5), 100).astype(np.float16)
    np.save(tmp_path / "p.npy", values)
    read = read_probabilities(tmp_path / "p.npy", 100, 5)
    assert read.dtype == np.float64
    np.testing.assert_allclose(read.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(read, values, atol=2e-3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda values: values[:-1], r"shape \(3, 2\) of float64; it must .* shape \(4, 2\)"),
        (lambda values: values[:, :1], r"shape \(4, 1\)"),
        (lambda values: values.astype(int), "of int64"),
        (lambda values: np.where(values == 0.4, np.nan, values), "NaN or infinity for 2 of 4"),
        (lambda values: values / 2, "sum to between 0.5 and 0.5"),
        (lambda values: values * [3, -2], "values from -1.2 to 1.5"),
    ],
)
def test_what_are_no_probabilities_is_refused(
    spoil: Callable[[np.ndarray], np.ndarray], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "p.npy", spoil(np.array([[0.4, 0.6]] * 2 + [[0.5, 0.5]] * 2)))
    with pytest.raises(TrainingError, match=message):
        read_probabilities(tmp_path / "p.npy", 4, 2)


def test_a_missing_or_pickled_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_probabilities(tmp_path / "p.npy", 4, 2)
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_probabilities(tmp_path / "p.npy", 4, 2)


def test_a_sealed_fold_has_no_checkpoints_and_is_whole(fold: Path) -> None:
    assert not is_sealed(fold)
    seal_fold(fold)
    check_seal(fold)
    assert not (fold / "checkpoints").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda fold: (fold / "model" / "weights.npy").write_bytes(b"Weights"),
        lambda fold: (fold / "model" / "more.npy").write_bytes(b""),
        lambda fold: (fold / "predictions.npy").unlink(),
        lambda fold: (fold / "looks.jsonl").write_text(""),
        lambda fold: (fold / "done.json").write_text("{}"),
        lambda fold: (fold / "done.json").write_text("["),
    ],
)
def test_a_change_after_the_seal_is_found(change: Callable[[Path], object], fold: Path) -> None:
    seal_fold(fold)
    change(fold)
    assert not is_sealed(fold)


def test_a_model_that_is_a_link_is_refused(fold: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"weights")
    try:
        (fold / "model" / "link.npy").symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(TrainingError, match=r"'link.npy' is a link"):
        seal_fold(fold)


@given(
    epochs=st.integers(1, 12),
    killed=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=4),
)
def test_looks_of_a_killed_fit_are_those_of_an_unbroken_one(
    epochs: int, killed: list[tuple[int, int]]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), 0
        for seen, lost in [*killed, (epochs, 0)]:
            record = open_looks(folder)
            for epoch in range(checkpoint, min(seen, epochs)):
                record({"epoch": epoch, "value": -1.0 / (epoch + 1), "chosen": True})
            # The checkpoint is older than the last look by as many epochs as are lost.
            checkpoint = max(checkpoint, min(seen, epochs) - lost)
        looks = read_looks(folder)
    assert [look["epoch"] for look in looks] == list(range(epochs))
    assert summarise_looks(looks) == {
        "number": epochs,
        "best": -1.0 / epochs,
        "chosen": -1.0 / epochs,
    }


def test_a_torn_look_is_left_out(fold: Path) -> None:
    with (fold / "looks.jsonl").open("a") as file:
        file.write('{"epoch": 1, "val')
    assert [look["epoch"] for look in read_looks(fold)] == [0]
    open_looks(fold)({"epoch": 1, "value": -0.4, "chosen": False})
    assert [look["epoch"] for look in read_looks(fold)] == [0, 1]
    assert summarise_looks(read_looks(fold)) == {"number": 2, "best": -0.4, "chosen": -0.5}


def test_no_looks_are_no_best(tmp_path: Path) -> None:
    assert summarise_looks(read_looks(tmp_path)) == {"number": 0, "best": None, "chosen": None}


def test_a_look_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="epoch 3 has the value nan"):
        open_looks(tmp_path)({"epoch": 3, "value": float("nan"), "chosen": False})


def test_predictions_name_the_most_probable_class() -> None:
    import pandas as pd

    table = pd.DataFrame(
        {
            "image": [0, 1],
            "file": ["a", "b"],
            "path": ["x/a", "x/b"],
            "frame": [0, 0],
            "split_group": ["p", "q"],
            "label": ["cat", "dog"],
            "fold": [1, 0],
        }
    )
    described = describe_predictions(
        table, ["cat", "dog"], np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([1, 0])
    )
    assert list(described) == [
        *("image", "file", "path", "frame", "person", "label", "predicted", "fold"),
        *("p:cat", "p:dog"),
    ]
    assert described["predicted"].tolist() == ["dog", "cat"]
    unlabelled = describe_predictions(
        table.drop(columns=["label", "fold"]), ["cat", "dog"], np.eye(2), np.array([0, 1])
    )
    assert "label" not in unlabelled
