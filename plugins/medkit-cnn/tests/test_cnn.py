"""The cnn trainer: it learns, and equal seeds give equal weights however often it is killed."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from medkit_cnn import CnnParams, CnnTrainer

from medkit.errors import TrainingError, UsageError
from medkit.testing import TrainerConformance
from medkit.training.contract import RunContext
from medkit.training.params import list_options, parse_options

# Keras reads TensorFlow's variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TORCH = os.environ.get("KERAS_BACKEND") == "torch"

SMALL = CnnParams(size=16, blocks=(4, 8), dense=0, epochs=4, batch_size=8, learning_rate=0.01)
# Everything that draws at random while it trains.
RANDOM = replace(
    SMALL,
    activation="noisy-relu",
    dense=8,
    dropout=0.5,
    schedule="cosine",
    shift=0.1,
    rotate=10.0,
    intensity=0.1,
    mirror=True,
)

REFUSED = [
    ("size", "1", "an integer, 2 or more"),
    ("size", "8", "4 blocks, of which each halves the size, need at least 16"),
    ("window", "lungs", "lung"),
    ("channels", "2", "one of 1, 3"),
    ("blocks", "0,8", "each an integer, 1 or more"),
    ("blocks", "", "the filters of one block or more, such as 16,32,64"),
    ("activation", "elu", "one of relu, noisy-relu, tanh, sigmoid"),
    ("norm", "group", "one of batch, layer, none"),
    ("pool", "min", "one of max, avg"),
    ("dense", "-1", "an integer, 0 or more"),
    ("dropout", "1", "a number, 0 or more and below 1"),
    ("epochs", "0", "an integer, 1 or more"),
    ("patience", "0", "an integer, 1 or more"),
    ("batch_size", "0", "an integer, 1 or more"),
    ("learning_rate", "0", "a number, above 0"),
    ("schedule", "linear", "one of constant, cosine"),
    ("shift", "1", "a number, 0 or more and below 1"),
    ("rotate", "181", "a number, 0 or more and 180 or less"),
    ("zoom", "-0.1", "a number, 0 or more and below 1"),
    ("intensity", "nan", "a number, 0 or more and below 1"),
    ("precision", "half", "one of auto, float32, bfloat16, float16"),
]


@pytest.fixture(scope="module")
def parts(make_part):
    return make_part(36), make_part(12, seed=1)


@pytest.fixture(scope="module")
def network_module():
    pytest.importorskip("keras")
    from medkit_cnn import network

    return network


def fit(params, parts, run):
    return CnnTrainer(params).fit(*parts, run)


def equal_weights(one, two):
    pairs = zip(one.network.get_weights(), two.network.get_weights(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def files_of(model, folder):
    folder.mkdir()
    model.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_loading_the_plugin_imports_nothing_heavy(list_heavy):
    assert list_heavy("medkit_cnn") == []


def test_options_are_documented_and_refused_out_of_range():
    assert all(option.help for option in list_options(CnnParams))
    for name, text, allowed in REFUSED:
        with pytest.raises(UsageError, match=f"^-p {name}={re.escape(text)}: .*{allowed}"):
            parse_options(CnnParams, {name: text})
    # What is refused is every option but the switches.
    switches = {"flatten", "class_weights", "mirror"}
    assert {one.name for one in list_options(CnnParams)} == {
        name for name, *_ in REFUSED
    } | switches


def test_it_learns_and_keeps_the_best_epoch(parts, make_part, make_run):
    looks = []
    params = replace(SMALL, epochs=12, patience=3)
    model = fit(params, parts, make_run(looks=looks.append))
    test = make_part(40, seed=2)
    probabilities = model.predict_proba(test.images)
    assert probabilities.shape == (40, 2)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert np.mean(probabilities.argmax(axis=1) == test.labels) > 0.9
    values = [look["value"] for look in looks]
    chosen = [look["epoch"] for look in looks if look["chosen"]]
    assert [look["epoch"] for look in looks] == list(range(1, len(looks) + 1))
    assert chosen[-1] == 1 + np.argmax(values)
    validation = model.predict_proba(parts[1].images)[np.arange(12), parts[1].labels]
    assert np.mean(np.log(validation)) == pytest.approx(max(values), rel=1e-6)


@pytest.fixture(scope="module")
def unbroken(parts, tmp_path_factory):
    looks, folder = [], tmp_path_factory.mktemp("unbroken")
    run = RunContext(seed=7, folder=folder, checkpoints=folder, looks=looks.append)
    return fit(RANDOM, parts, run), looks


def test_fits_follow_from_their_seed(parts, unbroken, make_run):
    other = fit(RANDOM, parts, make_run(seed=8))
    assert not equal_weights(unbroken[0], other)


def test_a_killed_fit_ends_as_an_unbroken_one(parts, unbroken, make_run, tmp_path):
    if importlib.import_module("keras").backend.backend() == "torch":
        pytest.skip("after a restart PyTorch rounds otherwise: equal weights, but not to the bit")
    resumed, steps = [], iter(range(1000))
    model, looks = unbroken

    def kill(look):
        if look["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(RANDOM, parts, make_run(looks=kill))
    # A second end, amid an epoch, at the wish of the user.
    with pytest.raises(TrainingError, match="stopped in epoch 2"):
        fit(RANDOM, parts, make_run(stopping=lambda: next(steps) == 2))
    broken = fit(RANDOM, parts, make_run(looks=resumed.append))
    assert equal_weights(model, broken)
    assert files_of(model, tmp_path / "one") == files_of(broken, tmp_path / "two")
    assert resumed == looks[1:]
    again = fit(RANDOM, parts, make_run(looks=resumed.append))  # killed after the last epoch
    assert equal_weights(model, again)
    assert resumed == looks[1:]


def test_reading_batches_from_the_set_gives_the_same_weights(
    parts, unbroken, make_run, monkeypatch
):
    monkeypatch.setattr("medkit.networks.batches.MEMORY_BYTES", -1)
    assert equal_weights(unbroken[0], fit(RANDOM, parts, make_run()))


def test_without_validation_the_last_epoch_counts(parts, make_run):
    looks = []
    train, validation = parts
    none = validation.take(np.arange(0))
    model = fit(SMALL, (train, none), make_run(looks=looks.append))
    assert looks == []
    assert model.predict_proba(none.images).shape == (0, 2)


def test_classes_weigh_equally_if_asked(make_part, make_run):
    rare = make_part(40, positive=0.1)
    blind = rare.view(window="100000/1")  # every pixel is black: prevalence is all there is
    params = replace(SMALL, window="100000/1", norm="none", epochs=30, learning_rate=0.02)
    means = [
        fit(replace(params, class_weights=chosen), (blind, blind), make_run(str(chosen)))
        .predict_proba(blind.images)[:, 1]
        .mean()
        for chosen in (False, True)
    ]
    assert means == pytest.approx([0.1, 0.5], abs=0.05)


def test_images_of_weight_zero_are_not_learned_from(parts, make_run):
    train, validation = parts
    wrong = replace(train.take(np.arange(8)), labels=1 - train.labels[:8])
    both = replace(
        train,
        images=train.images.take(np.r_[np.arange(36), np.arange(8)]),
        labels=np.r_[train.labels, wrong.labels],
        weights=np.r_[train.weights, np.zeros(8, np.float32)],
    )
    model = fit(replace(SMALL, epochs=8), (both, validation), make_run())
    assert np.mean(model.predict_proba(train.images).argmax(axis=1) == train.labels) > 0.9


def test_a_diverging_fit_says_what_would_work(parts, make_run):
    with pytest.raises(TrainingError, match="learning_rate"):
        fit(replace(SMALL, norm="none", learning_rate=1e30), parts, make_run())


def test_a_model_is_json_and_weights_and_reads_back(parts, unbroken, make_run, tmp_path):
    model, _ = unbroken
    folder = tmp_path / "model"
    assert sorted(files_of(model, folder)) == ["network.json", "network.weights.h5"]
    # The options of the trainer that loads do not count: those of the model do.
    loaded = CnnTrainer(CnnParams()).load(folder)
    images = parts[1].images
    assert np.array_equal(loaded.predict_proba(images), model.predict_proba(images))
    pixels = images.with_view(**loaded.view)[:]
    assert np.allclose(loaded.network.predict_on_batch(pixels), loaded.predict_proba(images))


def test_a_row_depends_on_its_image_alone(parts, make_run):
    model = fit(replace(SMALL, epochs=1), parts, make_run())
    whole = model.predict_proba(parts[0].images)
    assert np.allclose(
        model.predict_proba(parts[0].images.take([30, 2])), whole[[30, 2]], atol=1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh", "norm": "layer", "pool": "avg"},
        {"activation": "sigmoid", "norm": "none", "flatten": True, "dense": 4},
        {"activation": "noisy-relu", "norm": "batch", "channels": 3, "dropout": 0.0},
    ],
)
def test_every_block_can_be_chosen(network_module, changes):
    params = replace(SMALL, **changes)
    network = network_module.build_network(params, (16, 16, params.channels), 3, False)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, params.channels)).astype("f4")
    network.compile(loss="sparse_categorical_crossentropy")
    network.train_on_batch(images, np.array([0, 2]))
    assert np.allclose(network.predict_on_batch(images).sum(axis=1), 1, atol=1e-5)


def test_noisy_relu_is_that_of_the_paper(network_module):
    keras = importlib.import_module("keras")
    layer = network_module.NoisyReLU(alpha=0.9, c=0.5)
    values = np.linspace(-6, 6, 4000, dtype=np.float32).reshape(-1, 1)

    def apply(training: bool = False) -> np.ndarray:
        return keras.ops.convert_to_numpy(layer(values, training=training))

    quiet = apply().copy()
    layer.p.assign([2.0])
    hard, linear = np.maximum(values, 0), values
    spread = 0.5 * (1 / (1 + np.exp(-2 * (hard - linear))) - 0.5) ** 2
    sure = 0.9 * hard + 0.1 * linear
    assert not np.allclose(quiet, apply())  # p counts
    assert np.allclose(apply(), sure + spread * np.sqrt(2 / np.pi), atol=1e-6)
    noisy = apply(training=True)
    positive = values > 0
    assert np.array_equal(noisy[positive], values[positive])
    drawn = ((noisy - sure) / np.maximum(spread, 1e-9))[values < -1]
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.06)
    assert np.mean(drawn**2) == pytest.approx(1, abs=0.12)


def test_the_host_trains_it_and_loads_what_it_saved(train_on_study):
    options = {"epochs": "25", "batch_size": "4", "learning_rate": "0.001"}
    finished = train_on_study("cnn", **options)
    assert finished.metrics["metrics"]["auc"]["value"] > 0.9
    models = [finished.folder / f"fold-{fold}" / "model" for fold in range(2)]
    assert [len(list(model.iterdir())) for model in models] == [2, 2]


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
@pytest.mark.skipif(TORCH, reason="after a restart PyTorch rounds otherwise")
class TestConformance(TrainerConformance):
    plugin = "cnn"
    params: ClassVar = {
        **{"size": "16", "blocks": "4,8", "dense": "0", "epochs": "8"},
        **{"batch_size": "8", "learning_rate": "0.01"},
    }
