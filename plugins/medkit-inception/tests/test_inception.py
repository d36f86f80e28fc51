"""The inception trainer: features of a frozen network, and whose weights it has."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
from medkit_inception import InceptionParams, InceptionTrainer
from medkit_inception.weights import IMAGENET_FILE

from medkit.errors import TrainingError, UsageError
from medkit.training.params import list_options, parse_options

# Keras reads TensorFlow's variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def whole_network(keras):
    return keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(75, 75, 3), pooling="avg"
    )


@pytest.fixture(scope="module")
def legacy_file(whole_network, tmp_path_factory):
    """Weights by topology, as ImageNet's are published."""
    import h5py

    path = tmp_path_factory.mktemp("legacy") / IMAGENET_FILE
    layers = [layer for layer in whole_network.layers if layer.weights]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [weight.path for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    return path


@pytest.fixture(scope="module")
def images(make_images):
    return make_images(np.array([0, 1, 0, 1, 1]), size=75)


def make_trainer(**options):
    return InceptionTrainer(InceptionParams(**{"size": 75, "batch_size": 4} | options))


@pytest.fixture(scope="module")
def random_trainer():
    return make_trainer(weights="none")


def test_loading_the_plugin_imports_nothing_heavy(list_heavy):
    assert list_heavy("medkit_inception") == []


def test_options_are_documented_and_refused_out_of_range():
    assert all(option.help for option in list_options(InceptionParams))
    refused = {"size": "74", "layer": "mixed11", "window": "lung,soft", "batch_size": "0"}
    for name, text in refused.items():
        with pytest.raises(UsageError, match=name):
            parse_options(InceptionParams, {name: text})


def test_a_row_depends_on_its_image_alone(random_trainer, images, make_run):
    whole = random_trainer.features(images, make_run())
    some = random_trainer.features(images.take([4, 1]), make_run())
    assert whole.shape == (5, 2048)
    assert whole.dtype == np.float32
    assert np.allclose(whole[[4, 1]], some, rtol=1e-5, atol=1e-5)
    assert whole.std(axis=0).max() > 0.01


def test_random_weights_are_the_same_everywhere_and_said_to_be_random(
    random_trainer, images, make_run
):
    one = random_trainer.features(images, make_run(seed=1))
    other = make_trainer(weights="none").features(images, make_run(seed=2))
    assert np.array_equal(one, other)
    assert random_trainer.weights_used == {"name": "none", "sha256": None, "pretrained": False}


def test_a_layer_can_be_chosen(images, make_run):
    early = make_trainer(weights="none", layer="mixed0", window="1/50,100/50,200/50")
    assert early.features(images, make_run()).shape == (5, 256)


def test_weights_of_a_file_give_the_features_of_that_network(
    legacy_file, whole_network, images, make_run, tmp_path
):
    whole_network.jit_compile = False
    expected = whole_network.predict_on_batch(images.with_view(channels=3, scale=(-1, 1))[:])
    modern = tmp_path / "kept.weights.h5"
    whole_network.save_weights(modern)
    for path in (legacy_file, modern):
        trainer = make_trainer(weights=str(path))
        found = trainer.features(images, make_run())
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)
        assert trainer.weights_used == {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "pretrained": True,
        }


def test_spec_names_all_that_the_features_depend_on(legacy_file, tmp_path):
    moved = shutil.copy(legacy_file, tmp_path / "moved.h5")
    options = [
        {"weights": "none"},
        {"weights": "none", "layer": "mixed9"},
        {"weights": "none", "window": "full"},
        {"weights": "none", "size": 80},
        {"weights": str(legacy_file)},
    ]
    specs = [make_trainer(**each).feature_spec() for each in options]
    assert all(specs.count(spec) == 1 for spec in specs)
    assert make_trainer(weights=str(moved)).feature_spec() == specs[-1]


def test_imagenet_comes_from_keras_and_says_what_works_without_a_network(
    keras, legacy_file, monkeypatch
):
    asked = []

    def fetch(name, origin, **keywords):
        asked.append((name, origin, keywords["cache_subdir"]))
        return str(legacy_file)

    def fail(*_, **__):
        raise Exception("URL fetch failure: no route to host")

    monkeypatch.setattr(keras.utils, "get_file", fetch)
    assert make_trainer().weights_used["name"] == "imagenet"
    from keras.src.applications import inception_v3

    assert asked == [(IMAGENET_FILE, inception_v3.WEIGHTS_PATH_NO_TOP, "models")]
    monkeypatch.setattr(keras.utils, "get_file", fail)
    with pytest.raises(TrainingError, match=f"weights=PATH.*{IMAGENET_FILE}.*weights=none"):
        make_trainer().feature_spec()


def test_files_that_are_no_weights_are_refused(keras, images, make_run, tmp_path):
    tiny = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    tiny.save_weights(tmp_path / "tiny.weights.h5")
    (tmp_path / "noise.h5").write_bytes(b"not HDF5")
    (tmp_path / "model.keras").write_bytes(b"")
    refusals = {
        "missing.h5": "no such file",
        "model.keras": "ends in .h5",
        "noise.h5": "does not hold weights of InceptionV3",
        "tiny.weights.h5": "does not hold weights of InceptionV3",
    }
    for name, words in refusals.items():
        with pytest.raises(TrainingError, match=words):
            make_trainer(weights=str(tmp_path / name)).features(images, make_run())


def test_it_stops_when_asked(random_trainer, images, make_run):
    with pytest.raises(TrainingError, match="stopped"):
        random_trainer.features(images, make_run(stopping=lambda: True))


def test_the_host_trains_it_and_records_whose_weights_it_has(train_on_study):
    finished = train_on_study("inception", weights="none", size="75", batch_size="4")
    assert finished.metrics["metrics"]["auc"]["value"] > 0.9
    assert finished.record["weights"] == {"name": "none", "sha256": None, "pretrained": False}
