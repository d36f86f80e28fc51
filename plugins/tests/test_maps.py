"""Class activation maps: their mean is the logit, and shuffled weights give others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medkit.evaluation.saliency import measure_likeness
from medkit.images.reader import Images
from medkit.statistics.linear import LinearHead
from medkit.training.explanation import SHUFFLES, Subject, explain
from medkit.training.head import LinearModel

pytest.importorskip("medkit_cnn")
# Keras reads TensorFlow's variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = 3
LABELS = np.array([0, 1, 0, 1])
TARGETS = np.array([2, 0, 1, 1])


@pytest.fixture(scope="module")
def images(make_images: Any) -> Images:
    found: Images = make_images(LABELS, size=32)
    return found


def build(several: bool = False, **options: Any) -> Any:
    """Return an untrained model, which is the same each time."""
    import keras
    from medkit_cnn import CnnParams
    from medkit_cnn.model import CnnModel
    from medkit_cnn.network import build_network

    keras.utils.set_random_seed(0)
    params = CnnParams(size=32, blocks=(4, 8), window="full", **{"dense": 0, **options})
    return CnnModel(params, build_network(params, (32, 32, 1), CLASSES, several))


def check(maps: np.ndarray, probabilities: np.ndarray) -> None:
    """Check that the mean of a map is the logit of its class above the mean logit."""
    logits = np.log(probabilities)
    above = logits - logits.mean(axis=1, keepdims=True)
    expected = above[np.arange(len(TARGETS)), TARGETS]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), expected, atol=1e-4)


def test_a_network_on_averaged_maps_is_explained_exactly(images: Images) -> None:
    found = explain(Subject(None, build, None, images, TARGETS, 0))
    assert found.method == "cam"
    assert found.maps.shape == (1 + SHUFFLES, len(TARGETS), 8, 8)
    check(found.maps[0], build().predict_proba(images))
    likeness = measure_likeness(found.maps)
    assert likeness is not None and likeness < 0.99


def test_of_several_labels_the_mean_of_a_map_is_the_label_s_own_log_odds(images: Images) -> None:
    subject = Subject(None, lambda: build(several=True), None, images, TARGETS, 0, several=True)
    found = explain(subject)
    assert found.method == "cam"
    stated = build(several=True).predict_proba(images)[np.arange(len(TARGETS)), TARGETS]
    odds = np.log(stated / (1 - stated))
    assert np.abs(odds).max() > 1e-3
    np.testing.assert_allclose(found.maps[0].mean(axis=(1, 2)), odds, atol=1e-4)


def test_another_network_is_explained_otherwise(images: Images) -> None:
    from medkit.networks.maps import open_pooled

    assert open_pooled(build(dense=8).network) is None
    assert open_pooled(build(flatten=True).network) is None


class Extractor:
    """Gives averaged maps as features."""

    def __init__(self) -> None:
        import keras

        network = build().network
        self._network = keras.Model(network.input, network.get_layer("gather").output)

    def feature_network(self) -> Any:
        return self._network

    def feature_spec(self) -> dict[str, Any]:
        return {"view": build().view}

    def features(self, images: Images) -> np.ndarray:
        from medkit.networks.prediction import apply_network

        return apply_network(self._network, images.with_view(**self.feature_spec()["view"]))


def test_a_linear_head_on_averaged_maps_is_explained_exactly(images: Images) -> None:
    trainer, random = Extractor(), np.random.default_rng(0)
    head = LinearHead(random.normal(size=(CLASSES, 8)), random.normal(size=CLASSES), 1.0, {}, ())
    model = LinearModel(head)
    found = explain(Subject(trainer, lambda: model, trainer.features, images, TARGETS, 0))
    assert found.method == "cam"
    check(found.maps[0], head.predict_proba(trainer.features(images)))
    assert found.maps.shape == (1 + SHUFFLES, len(TARGETS), 8, 8)
