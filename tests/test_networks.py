"""What trainers of networks share, as far as it needs no Keras: augmentation, batches, hardware."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixedsets import KINDS, make_images
from sklearn.metrics import log_loss

import medkit
from medkit.errors import TrainingError
from medkit.networks.augmentation import Augmentation
from medkit.networks.batches import Part, draw_batches, make_batches, measure_scale
from medkit.networks.hardware import Gpu, choose_policy, is_out_of_memory
from medkit.networks.outputs import measure_log_loss, weigh_classes, weigh_labels
from medkit.networks.prediction import halve_batch
from medkit.training.contract import LabelledImages

MODULES = sorted(path.stem for path in (Path(medkit.__file__).parent / "networks").glob("*.py"))
ALL = Augmentation(shift=0.2, rotate=20.0, zoom=0.2, intensity=0.2, mirror=True)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def apply(augmentation: Augmentation, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    return augmentation.apply(pixels, np.random.default_rng(seed))


def test_no_module_needs_keras_to_be_imported() -> None:
    imports = "\n".join(f"import medkit.networks.{name}" for name in MODULES if name[0] != "_")
    heavy = {"keras", "tensorflow", "jax", "torch", "h5py"}
    script = f"import sys\n{imports}\nassert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_is_varied_and_no_side_exchanged_unless_asked() -> None:
    pixels = draw(6, 9, 7, 2)
    assert not Augmentation()
    np.testing.assert_array_equal(apply(Augmentation(), pixels), pixels)
    # Bright on the left stays bright on the left, whatever else is varied.
    pixels[:] = np.linspace(1, -1, 7)[:, np.newaxis]
    varied = apply(Augmentation(shift=0.1, rotate=20.0, zoom=0.1, intensity=0.2), pixels)
    assert (varied[:, :, 0] > varied[:, :, -1]).all()


@given(seed=st.integers(0, 999), side=st.integers(2, 12))
def test_varied_images_follow_from_the_seed_and_stay_in_range(seed: int, side: int) -> None:
    pixels = draw(3, side, side, 1, seed=seed)
    before = pixels.copy()
    varied = apply(ALL, pixels, seed)
    assert varied.dtype == np.float32
    assert varied.shape == pixels.shape
    assert np.abs(varied).max() <= 1
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(varied, apply(ALL, pixels, seed))
    assert not np.array_equal(varied, apply(ALL, pixels, seed + 1))


def test_half_of_the_images_are_mirrored_exactly() -> None:
    pixels = draw(400, 3, 5, 1)
    varied = apply(Augmentation(mirror=True), pixels)
    same = (varied == pixels).all(axis=(1, 2, 3))
    turned = (varied == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ turned).all()
    assert 150 < turned.sum() < 250


def test_images_are_moved_turned_and_stretched_as_far_as_is_said() -> None:
    line = np.zeros((200, 41, 41, 1), np.float32)
    line[:, 20, 20:] = 1  # from the middle to the right

    def find(augmentation: Augmentation) -> tuple[np.ndarray, np.ndarray]:
        """Return where the line is heaviest, from the middle, in pixels."""
        varied = apply(augmentation, line)[..., 0]
        total = varied.sum(axis=(1, 2))
        axis = np.arange(41) - 20
        return varied.sum(axis=2) @ axis / total, varied.sum(axis=1) @ axis / total

    rows, columns = find(Augmentation(shift=0.1))
    # The edge pixels are repeated where a shift uncovers them, which moves the centre by half.
    assert np.abs(rows).max() == pytest.approx(4.1, abs=0.2)
    assert columns.min() < 8.5 and columns.max() > 11.5
    rows, columns = find(Augmentation(rotate=30.0))
    angles = np.degrees(np.arctan2(rows, columns))
    assert angles.min() == pytest.approx(-30, abs=2)
    assert angles.max() == pytest.approx(30, abs=2)
    dot = np.zeros((200, 41, 41, 1), np.float32)
    dot[:, 10:31, 10:31] = 1
    sides = np.sqrt(apply(Augmentation(zoom=0.25), dot).sum(axis=(1, 2, 3))) / 21
    assert sides.min() == pytest.approx(1 / 1.25, abs=0.03)
    assert sides.max() == pytest.approx(1.25, abs=0.03)


def test_contrast_and_brightness_change_about_the_middle() -> None:
    pixels = np.tile(np.array([-0.5, 0.5], np.float32), (300, 1)).reshape(300, 1, 2, 1)
    varied = apply(Augmentation(intensity=0.2), pixels)
    contrast, light = np.ptp(varied, axis=(1, 2, 3)), varied.mean(axis=(1, 2, 3))
    assert contrast.min() == pytest.approx(0.8, abs=0.01)
    assert contrast.max() == pytest.approx(1.2, abs=0.01)
    assert np.abs(light).max() == pytest.approx(0.2, abs=0.01)


@given(count=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 9))
def test_batches_hold_every_image_once_and_are_of_nearly_one_size(
    count: int, size: int, seed: int
) -> None:
    drawn = draw_batches(count, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(drawn).tolist()) == list(range(count))
    sizes = [len(rows) for rows in drawn]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("threads", [0, 3])
def test_batches_are_the_same_whoever_makes_them(threads: int) -> None:
    images = make_images(["uint16x1"] * 9).with_view(scale=(-1, 1))
    part = Part(images, np.arange(9), np.linspace(0, 1, 9, dtype=np.float32))
    rows = draw_batches(9, 2, np.random.default_rng(0))
    made = list(make_batches(part, rows, ALL, (7, 1), threads))
    for number, (pixels, labels, weights) in enumerate(made):
        random = np.random.default_rng((7, 1, number))
        np.testing.assert_array_equal(pixels, ALL.apply(images[rows[number]], random))
        np.testing.assert_array_equal(labels, rows[number])
        np.testing.assert_array_equal(weights, part.weights[rows[number]])


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    low=st.floats(-9, 9),
    window=st.sampled_from(["header", "40/400", "0/90000"]),
)
def test_on_the_measured_scale_pixels_have_mean_0_and_deviation_1(
    kinds: list[str], low: float, window: str
) -> None:
    images = make_images(kinds).with_view(window=window, scale=(low, low + 1))
    seen = images.with_view(scale=measure_scale(images))[:].astype(np.float64)
    assert seen.mean() == pytest.approx(0, abs=1e-2)
    assert seen.std() == pytest.approx(1, rel=1e-2)


def test_images_of_one_grey_stay_of_one_grey() -> None:
    """Their rounding is not blown up; a view beyond what they hold cuts them to its lower end."""
    images = make_images(["uint16x1"] * 3).with_view(window="1e9/2")
    low, high = measure_scale(images)
    assert (low, high) == (0, 2**16)
    assert not images.with_view(scale=(low, high))[:].any()


@pytest.mark.parametrize("view", [{}, {"size": 3}, {"size": 3, "channels": 3, "window": "40/400"}])
def test_codes_held_in_the_size_of_the_view_look_the_same(view: dict[str, object]) -> None:
    images = make_images([*KINDS, *KINDS]).with_view(**view)
    held = images.cached(reduced=True)
    np.testing.assert_array_equal(held[:], images[:])
    assert held.source.size == images.shape[1:3]
    assert held.codes(0).shape[:2] == images.shape[1:3]


def test_precision_is_chosen_by_the_gpu() -> None:
    gpus = {
        None: "float32",
        Gpu("of another maker", (0, 0)): "float32",
        Gpu("Tesla T4", (7, 5)): "mixed_float16",
        Gpu("A100", (8, 0)): "mixed_bfloat16",
        Gpu("H200", (9, 0)): "mixed_bfloat16",
    }
    assert {gpu: choose_policy("auto", gpu) for gpu in gpus} == gpus
    assert choose_policy("float16", None) == "mixed_float16"
    with pytest.raises(TrainingError, match="precision='half': give one of auto, float32"):
        choose_policy("half", None)


def raised(name: str, text: str = "") -> Exception:
    """Return an error of a class that is called as a backend's."""
    return type(name, (RuntimeError,), {})(text)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (raised("ResourceExhaustedError", "OOM when allocating tensor"), True),
        (raised("OutOfMemoryError", "CUDA out of memory."), True),
        (raised("XlaRuntimeError", "RESOURCE_EXHAUSTED: Out of memory allocating"), True),
        (raised("XlaRuntimeError", "INVALID_ARGUMENT: shapes"), False),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("no kernel image"), False),
        (MemoryError(), True),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_told_from_other_errors(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full


def test_a_batch_is_halved_until_it_is_one_image() -> None:
    assert halve_batch(9, MemoryError()) == 4
    with pytest.raises(TrainingError, match="single image; a smaller -p size"):
        halve_batch(1, MemoryError())
    with pytest.raises(KeyError):
        halve_batch(8, KeyError("another"))


def draw_labels(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n, c), of which many are not known, and probabilities."""
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 2, (60, 4))
    labels[:, 3] = -1
    labels[::3, 0] = -1
    return labels, random.uniform(0.01, 0.99, (60, 4))


def label(labels: np.ndarray) -> LabelledImages:
    ones, classes = np.ones(len(labels), np.float32), tuple("abcd")
    return LabelledImages(None, labels, np.arange(len(labels)).astype(str), classes, ones)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_a_label_is_measured_as_if_images_that_do_not_tell_it_were_removed(seed: int) -> None:
    labels, stated = draw_labels(seed)
    weights = weigh_labels(labels, weigh_classes(label(labels), equally=False))
    alone = [
        log_loss(labels[known, c], stated[known, c], labels=[0, 1])
        for c, known in enumerate((labels >= 0).T)
        if known.any()
    ]
    assert len(alone) == 3  # of the fourth nothing is known: it counts for nothing
    assert measure_log_loss(stated, labels, weights) == pytest.approx(np.mean(alone))
    # The loss that is trained by is their sum over the labels there are.
    terms = -np.log(np.where(labels == 1, stated, 1 - stated))
    assert (terms * weights).mean() == pytest.approx(np.sum(alone) / 4)
    # Whatever is said of what is not known changes nothing.
    other = np.where(labels < 0, np.random.default_rng(9).random(stated.shape), stated)
    assert measure_log_loss(other, labels, weights) == measure_log_loss(stated, labels, weights)
    assert measure_log_loss(stated, np.full_like(labels, -1), np.zeros(labels.shape)) is None


def test_with_and_without_a_label_weigh_equally_if_asked() -> None:
    labels, _ = draw_labels()
    weights = weigh_labels(labels, weigh_classes(label(labels), equally=True))
    assert not weights[labels < 0].any()
    for column in range(3):
        sums = [weights[labels[:, column] == value, column].sum() for value in (0, 1)]
        assert sums == pytest.approx([30, 30])  # half of the 60 images each


def test_of_one_label_an_image_weights_are_those_of_its_class() -> None:
    labels = np.array([0, 0, 0, 2])
    assert weigh_classes(label(labels), equally=False).tolist() == [1, 1, 1, 1]
    factors = weigh_classes(label(labels), equally=True)
    assert factors == pytest.approx([1 / 3, 1, 1, 1])
    assert weigh_labels(labels, factors) == pytest.approx([1 / 3] * 3 + [1])
    stated = np.array([[0.5, 0.2, 0.2, 0.1]] * 4)
    expected = log_loss(labels, stated, labels=range(4), sample_weight=factors[labels])
    assert measure_log_loss(stated, labels, factors[labels]) == pytest.approx(expected)
