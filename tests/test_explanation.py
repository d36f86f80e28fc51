"""What decided: the host's occlusion, a model's own word, and the check by shuffled weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medkit.errors import TrainingError
from medkit.evaluation.saliency import ALIKE, measure_likeness
from medkit.images.reader import CachedCodes, Images
from medkit.statistics.linear import LinearHead
from medkit.training.explanation import CELLS, SHUFFLES, Explained, Subject, explain
from medkit.training.head import LinearModel

SIZE, BOX = 50, (0, 10, 50, 40)


def make_images(count: int = 2, seed: int = 0) -> Images:
    """Return letterboxed images of noise, whose padding has a value of its own."""
    codes = np.random.default_rng(seed).integers(900, 1100, (count, SIZE, SIZE)).astype(np.uint16)
    codes[:, :10] = codes[:, 40:] = 0
    table = pd.DataFrame(
        {
            "image": range(count),
            "array": "uint16x1",
            "row": range(count),
            "slope": 1.0,
            "intercept": 0.0,
            "full_low": 0.0,
            "full_high": 4095.0,
            "WindowCenter": 1000.0,
            "WindowWidth": 2000.0,
            "VOILUTFunction": None,
            "pad_box": [list(BOX)] * count,
        }
    )
    return Images(CachedCodes({"uint16x1": (np.arange(count), codes)}, (SIZE, SIZE)), table)


def see(images: Images) -> np.ndarray:
    return np.concatenate([images[[one]] for one in range(len(images))])[..., 0]


@dataclass
class Corner:
    """Finds the more of class 1, the farther pixels of a corner are from the image's mean."""

    rows: tuple[int, int] = (10, 20)
    columns: tuple[int, int] = (35, 50)
    seen: list[int] = field(default_factory=list)

    def predict_proba(self, images: Images) -> np.ndarray:
        pixels = see(images)
        self.seen.append(len(pixels))
        looked_at = pixels[:, slice(*self.rows), slice(*self.columns)]
        odds = np.exp(400 * looked_at.std(axis=(1, 2)) - 10)
        return np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)


@dataclass
class Outspoken(Corner):
    """Explains itself."""

    given: Any = None

    def explain(self, images: Images) -> Any:
        return self.given


def ask(model: Any, target: int = 1, images: Images | None = None, **rest: Any) -> Explained:
    images = make_images() if images is None else images
    load: Callable[[], Any] = lambda: model  # noqa: E731
    targets = np.full(len(images), target)
    return explain(
        Subject(rest.pop("trainer", None), load, rest.pop("extract", None), images, targets, 0)
    )


def test_occlusion_finds_what_a_model_looks_at() -> None:
    found = ask(Corner())
    assert found.method == "occlusion"
    assert found.maps.shape == (1, 2, CELLS, CELLS)
    for strengths in found.maps[0]:
        # Rows 10 to 20 and columns 35 to 50 of 50, and one cell around them.
        assert {*np.argwhere(strengths > 0.2 * strengths.max())[:, 0]} <= {1, 2, 3, 4}
        assert {*np.argwhere(strengths > 0.2 * strengths.max())[:, 1]} <= {6, 7, 8, 9}
        assert strengths.max() > 0
    against = ask(Corner(), target=0).maps
    np.testing.assert_allclose(against, -found.maps, atol=1e-9)


def test_padding_is_not_covered() -> None:
    model = Corner(rows=(0, 10))
    assert (ask(model).maps == 0).all()
    # Of the ten rows of cells six lie in the image; covers of two over them are seven.
    assert set(model.seen) >= {1 + 7 * 9}


class Surer(Corner):
    """The same, so sure that its probability rounds to 1."""

    def predict_proba(self, images: Images) -> np.ndarray:
        given = super().predict_proba(images)
        return np.stack([given[:, 0] * 1e-18, np.ones(len(given))], axis=1)


def test_a_sure_model_still_has_a_map() -> None:
    (strengths,) = ask(Surer(), images=make_images(1)).maps[0]
    assert strengths.max() > 0.1
    assert {*np.argwhere(strengths > 0.5 * strengths.max())[:, 1]} <= {7, 8, 9}


def test_a_model_that_explains_itself_is_asked() -> None:
    given = np.arange(2 * 5 * 4, dtype=float).reshape(2, 5, 4)
    found = ask(Outspoken(given=given))
    assert found.method == "model"
    np.testing.assert_array_equal(found.maps, [given])


@pytest.mark.parametrize(
    "given", [np.zeros((2, 5)), np.zeros((3, 5, 5)), np.full((2, 5, 5), np.nan)]
)
def test_an_explanation_of_another_shape_is_an_error(given: np.ndarray) -> None:
    with pytest.raises(TrainingError, match=r"'explain' gave shape .* for 2 images"):
        ask(Outspoken(given=given))


class Pixels:
    """Gives the pixels as features."""

    def feature_spec(self) -> dict[str, Any]:
        return {"view": {"size": None}}


def make_head(weights: np.ndarray) -> LinearModel:
    return LinearModel(LinearHead(weights, np.zeros(2), 1.0, {}, ()))


def test_a_linear_head_on_pixels_is_explained_and_checked() -> None:
    weights = np.zeros((2, SIZE, SIZE))
    weights[1, 20:30, 10:20] = 0.5
    head = make_head(weights.reshape(2, -1))
    extract = lambda images: see(images).reshape(len(images), -1)  # noqa: E731
    # Spots all over, of which one counts.
    images = make_images()
    for row, column in np.argwhere(np.add.outer(np.arange(3), np.arange(5)) % 2 == 0):
        codes = images.source.codes["uint16x1"][1]
        codes[:, 10 * row + 10 : 10 * row + 20, 10 * column : 10 * column + 10] += 500
    found = ask(head, images=images, trainer=Pixels(), extract=extract)
    assert found.method == "occlusion"
    assert found.maps.shape == (1 + SHUFFLES, 2, CELLS, CELLS)
    row, column = np.unravel_index(found.maps[0, 0].argmax(), (CELLS, CELLS))
    assert (row in (4, 5), column in (2, 3)) == (True, True)
    # Weights in another order no longer find it: the check tells a map of what was learned.
    likeness = measure_likeness(found.maps)
    assert likeness is not None and likeness < ALIKE


def test_likeness_is_that_of_ranks() -> None:
    random = np.random.default_rng(0)
    own = random.normal(size=(1, 4, 8, 8))
    assert measure_likeness(np.concatenate([own, np.exp(own), own * 3])) == pytest.approx(1)
    assert measure_likeness(np.concatenate([own, -own])) == pytest.approx(1)  # upside down is alike
    other = random.normal(size=(50, 4, 8, 8))
    likeness = measure_likeness(np.concatenate([own, other]))
    assert likeness is not None and likeness < 0.15
    # Padding is 0 in all, and would be alike.
    padded = np.pad(np.concatenate([own, other]), ((0, 0), (0, 0), (0, 30), (0, 0)))
    assert measure_likeness(padded) == pytest.approx(likeness)


def test_maps_without_ranks_have_no_likeness() -> None:
    assert measure_likeness(np.zeros((3, 2, 4, 4))) is None
    assert measure_likeness(np.ones((3, 2, 4, 4))) is None
