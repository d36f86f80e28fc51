"""How medkit fits a network: stages, schedules, resuming, precision, and memory that is full."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from medkit.errors import TrainingError
from medkit.networks import batches, fitting
from medkit.networks.augmentation import Augmentation
from medkit.networks.fitting import Plan, Stage, fit_network
from medkit.networks.hardware import Gpu
from medkit.networks.outputs import make_output
from medkit.networks.prediction import predict

keras = pytest.importorskip("keras")

# Keras reads TensorFlow's variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BACKEND = keras.backend.backend()


def build(shape: tuple[int, int, int], classes: int, several: bool) -> Any:
    """Return a network with everything that has a state: norm, dropout and a head of its own."""
    layers = keras.layers
    images = values = layers.Input(shape, name="images")
    for name in ("below", "above"):
        values = layers.Conv2D(4, 3, strides=2, activation="relu", name=name)(values)
        values = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(values)
    values = layers.Dropout(0.2, name="dropout")(layers.Flatten(name="gather")(values))
    return keras.Model(images, make_output(classes, several)(values), name="network")


def train_from(name: str) -> Any:
    """Return what freezes all layers below one."""

    def unfreeze(network: Any) -> None:
        names = [layer.name for layer in network.layers]
        for place, layer in enumerate(network.layers):
            layer.trainable = place >= names.index(name)

    return unfreeze


HEAD = Stage(2, 5, 0.01, "cosine", train_from("probabilities"))
TOP = Stage(3, 5, 0.003, "cosine", train_from("above"))
PLAN = Plan(
    build,
    {"size": 16, "window": "full", "scale": (-1.0, 1.0)},
    (HEAD, TOP),
    batch_size=8,
    augmentation=Augmentation(shift=0.1, rotate=5.0),
)
ONE = replace(PLAN, stages=(Stage(3, 5, 0.01),))


@pytest.fixture(scope="module")
def parts(make_part):
    return make_part(36), make_part(12, seed=1)


@pytest.fixture(scope="module")
def findings(make_findings):
    return make_findings(36), make_findings(12, seed=1)


def hash_weights(network: Any) -> str:
    return hashlib.sha256(b"".join(each.tobytes() for each in network.get_weights())).hexdigest()


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what each training step had: images, learning rate, and what is trained."""
    steps: list[dict[str, Any]] = []

    def run(network: Any, made: Any) -> Any:
        optimiser = getattr(network.optimizer, "inner_optimizer", network.optimizer)
        schedule, first = optimiser._learning_rate, int(optimiser.iterations)
        for number, (batch, loss) in enumerate(
            zip(*tee(made, lambda one: run_steps(network, one)), strict=True)
        ):
            rate = schedule(first + number) if callable(schedule) else schedule
            steps.append(
                {
                    "count": len(batch[1]),
                    "rate": float(rate),
                    "trained": {one.path.split("/")[0] for one in network.trainable_variables},
                }
            )
            yield loss

    run_steps = fitting.run_steps
    monkeypatch.setattr(fitting, "run_steps", run)
    return steps


def tee(items: Any, use: Any) -> tuple[list[Any], Any]:
    """Return what is seen of items, and what something makes of them."""
    kept = list(items)
    return kept, use(kept)


def test_stages_train_what_they_unfreeze_at_the_rate_of_their_schedule(parts, make_run, spy):
    fit_network(PLAN, *parts, make_run())
    assert [step["count"] for step in spy] == [8, 7, 7, 7, 7] * 5
    head, top = spy[:10], spy[10:]
    assert {frozenset(step["trained"]) for step in head} == {frozenset({"probabilities"})}
    assert {frozenset(step["trained"]) for step in top} == {
        frozenset({"above", "above_norm", "probabilities"})
    }
    for steps, stage in ((head, HEAD), (top, TOP)):
        share = np.arange(len(steps)) / len(steps)
        expected = stage.learning_rate * (1 + np.cos(np.pi * share)) / 2
        assert [step["rate"] for step in steps] == pytest.approx(expected, rel=1e-4)


def test_a_stage_starts_from_the_best_weights_and_leaves_frozen_layers_alone(parts, make_run):
    course = fitting._Course(PLAN, None, None, (16, 16, 1), 2, False, make_run(), None)
    fresh = course.build("float32")
    head = fit_network(replace(PLAN, stages=(HEAD,)), *parts, make_run("head"))
    both = fit_network(PLAN, *parts, make_run("both"))

    def read(network: Any, layer: str) -> np.ndarray:
        return np.array(network.get_layer(layer).get_weights()[0])

    assert np.array_equal(read(fresh, "below"), read(both, "below"))
    assert np.array_equal(read(fresh, "above"), read(head, "above"))
    assert not np.array_equal(read(head, "above"), read(both, "above"))


def test_patience_ends_a_stage_and_not_the_fit(parts, make_run):
    looks: list[Any] = []
    # No rate at all: no epoch is better than the first.
    idle = Stage(9, 2, 1e-12)
    plan = replace(PLAN, stages=(idle, replace(idle, patience=3)), augmentation=Augmentation())
    train, validation = parts
    fixed = replace(plan, build=lambda *asked: freeze_norms(build(*asked)))
    fit_network(fixed, train, validation, make_run(looks=looks.append))
    assert [look["epoch"] for look in looks] == list(range(1, 7))
    assert [look["chosen"] for look in looks] == [True] + [False] * 5


def freeze_norms(network: Any) -> Any:
    for layer in network.layers:
        layer.trainable = "norm" not in layer.name
    return network


@pytest.mark.skipif(BACKEND == "torch", reason="after a restart PyTorch rounds otherwise")
@pytest.mark.parametrize(("name", "plan"), [("parts", PLAN), ("findings", ONE)])
def test_a_fit_killed_at_every_epoch_ends_as_an_unbroken_one(
    name, plan, make_run, monkeypatch, request
):
    parts = request.getfixturevalue(name)
    expected = hash_weights(fit_network(plan, *parts, make_run("whole")))
    save = fitting.Standing.save

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.Standing, "save", save_and_die)
    for _ in range(sum(stage.epochs for stage in plan.stages)):
        with pytest.raises(KeyboardInterrupt):
            fit_network(plan, *parts, make_run())
    assert hash_weights(fit_network(plan, *parts, make_run())) == expected


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what lets steps of more images than some run out of memory, from an epoch on."""

    def arrange(most: int, after: int = 0) -> list[int]:
        run_steps, sizes = fitting.run_steps, []

        def run(network: Any, made: Any) -> Any:
            def check() -> Any:
                for batch in made:
                    sizes.append(len(batch[1]))
                    if len(sizes) > after and sizes[-1] > most:
                        raise MemoryError
                    yield batch

            yield from run_steps(network, check())

        monkeypatch.setattr(fitting, "run_steps", run)
        return sizes

    return arrange


def test_full_memory_begins_the_epoch_again_with_half_the_batch(parts, make_run, fail, spy):
    words: list[str] = []
    # Two epochs of 5 steps pass, and one step of the third; then it is full.
    sizes = fail(4, after=11)
    run = make_run(log=words.append)
    network = fit_network(replace(PLAN, stages=(replace(TOP, epochs=4),)), *parts, run)
    assert "out of memory with batches of 8 images: epoch 3 begins again with 4" in words
    assert max(sizes[12:]) == 4
    assert np.isfinite(predict(network, parts[1].view(**PLAN.view).images)).all()
    # The schedule goes on from where the third epoch is, by the steps there are now.
    rates = [step["rate"] for step in spy if step["count"] <= 4]
    share = 0.5 + np.arange(18) / 36
    assert rates == pytest.approx(TOP.learning_rate * (1 + np.cos(np.pi * share)) / 2, rel=1e-3)


def test_half_the_batch_is_kept_over_a_kill(parts, make_run, fail, monkeypatch):
    fail(4)
    whole = hash_weights(fit_network(PLAN, *parts, make_run("whole")))
    monkeypatch.undo()

    def die(look: Any) -> None:
        if look["epoch"] == 2:
            raise KeyboardInterrupt

    sizes = fail(4)
    with pytest.raises(KeyboardInterrupt):
        fit_network(PLAN, *parts, make_run(looks=die))
    assert sizes[0] == 8
    del sizes[:]
    resumed = hash_weights(fit_network(PLAN, *parts, make_run()))
    assert max(sizes) == 4
    assert resumed == whole or BACKEND == "torch"


def test_memory_that_holds_no_image_is_an_error_that_says_what_would_work(parts, make_run, fail):
    fail(0)
    with pytest.raises(TrainingError, match="does not hold a single image; a smaller -p size"):
        fit_network(ONE, *parts, make_run())


def test_other_errors_are_raised_as_they_are(parts, make_run, monkeypatch):
    def run(network: Any, made: Any) -> Any:
        yield from ()
        raise ZeroDivisionError

    monkeypatch.setattr(fitting, "run_steps", run)
    with pytest.raises(ZeroDivisionError):
        fit_network(ONE, *parts, make_run())


def test_prediction_halves_its_batch_too(parts, monkeypatch):
    network = build((16, 16, 1), 2, False)
    images = parts[0].view(**PLAN.view).images
    expected, predict_on_batch, sizes = predict(network, images), network.predict_on_batch, []

    def fail_above_eight(batch: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 8:
            raise MemoryError
        return predict_on_batch(batch)

    monkeypatch.setattr(network, "predict_on_batch", fail_above_eight)
    assert np.allclose(predict(network, images), expected, atol=1e-6)
    assert sizes == [64, 32, 16] + [8] * 5


def test_the_fit_says_where_it_runs_and_how_it_stands(parts, make_run):
    words: list[str] = []
    facts: list[Any] = []
    fit_network(ONE, *parts, make_run(log=words.append, facts=facts.append))
    assert words[0] == "training on the CPU in float32"
    known: dict[str, Any] = {}
    for fact in facts:
        known |= fact
        if "validation_loss" in fact:
            assert known["loss"] > 0
            assert known["images_per_second"] > 0
    assert (known["epoch"], known["epochs"], known["batch_size"]) == (2, 3, 8)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_returns_float32(parts, make_run, precision):
    policies: set[str] = set()

    def build_and_note(*asked: Any) -> Any:
        policies.add(keras.config.dtype_policy().name)
        return build(*asked)

    plan = replace(ONE, build=build_and_note, precision=precision)
    network = fit_network(plan, *parts, make_run())
    assert policies == {f"mixed_{precision}", "float32"}
    assert {each.dtype for each in network.weights} == {"float32"}
    assert network.get_layer("above").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    test = parts[0].view(**PLAN.view)
    assert np.mean(predict(network, test.images).argmax(axis=1) == test.labels) > 0.9


@pytest.mark.skipif(BACKEND == "torch", reason="after a restart PyTorch rounds otherwise")
def test_the_scale_of_the_loss_goes_on_after_a_kill(parts, make_run):
    plan = replace(ONE, precision="float16", stages=(Stage(2, 2, 0.01),))
    expected = hash_weights(fit_network(plan, *parts, make_run("whole")))

    def die(look: Any) -> None:
        if look["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_network(plan, *parts, make_run(looks=die))
    with np.load(make_run().checkpoints / "epoch.npz") as content:
        kept = [content[name] for name in content.files if name.startswith("optimiser/")]
    scale = max(each.item() for each in kept if each.size == 1)
    assert scale >= 64, "it starts at 2 to the 15th, and is halved where gradients are not finite"
    assert np.log2(scale) % 1 == 0
    assert hash_weights(fit_network(plan, *parts, make_run())) == expected


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has its batches from the host")
def test_images_held_where_the_gpu_is_train_as_those_of_the_host(parts, make_run, monkeypatch):
    framework = {
        "tensorflow": batches.feeds.TensorFlow,
        "torch": lambda: batches.feeds.Torch("cpu"),
    }
    monkeypatch.setattr(batches, "_FRAMEWORKS", framework)
    plan = replace(ONE, augmentation=Augmentation(), precision="float32")
    words: list[str] = []
    host = fit_network(plan, *parts, make_run("host"))
    monkeypatch.setattr(fitting, "find_gpu", lambda: Gpu("A card", (9, 0)))
    monkeypatch.setattr(batches, "MEMORY_BYTES", -1)
    device = fit_network(plan, *parts, make_run("device", log=words.append))
    assert words[0] == "training on A card in float32"
    images = parts[1].view(**PLAN.view).images
    assert predict(device, images) == pytest.approx(predict(host, images), abs=1e-3)


def test_one_function_is_compiled_and_the_loss_is_read_once_an_epoch(parts, make_run, monkeypatch):
    functions: set[int] = set()
    losses: list[float] = []
    run_steps, read_loss = fitting.run_steps, fitting._read_loss

    def run(network: Any, made: Any) -> Any:
        yield from run_steps(network, made)
        functions.add(id(network.train_function))

    def read(tensor: Any, epoch: int) -> float:
        losses.append(read_loss(tensor, epoch))
        return losses[-1]

    monkeypatch.setattr(fitting, "run_steps", run)
    monkeypatch.setattr(fitting, "_read_loss", read)
    monkeypatch.setattr(fitting, "_PACE", np.inf)
    fit_network(ONE, *parts, make_run())
    assert len(functions) == 1
    assert len(losses) == 3
    assert losses[2] < losses[0]


# ---- Several labels an image ---------------------------------------------------------------------


def build_plain(shape: tuple[int, int, int], classes: int, several: bool) -> Any:
    """Return a network in which an image says nothing of the others: no normalisation."""
    layers = keras.layers
    images = layers.Input(shape, name="images")
    values = layers.Conv2D(4, 3, strides=2, activation="relu", name="maps")(images)
    values = layers.Flatten(name="gather")(values)
    return keras.Model(images, make_output(classes, several)(values), name="plain")


PLAIN = replace(ONE, build=build_plain, augmentation=Augmentation(), stages=(Stage(6, 6, 0.01),))


def test_each_label_is_learned_by_itself_and_the_epoch_chosen_by_all(findings, make_run):
    looks: list[Any] = []
    facts: list[Any] = []
    network = fit_network(PLAIN, *findings, make_run(looks=looks.append, facts=facts.append))
    test = findings[1].view(**PLAIN.view)
    stated = predict(network, test.images)
    assert not np.allclose(stated.sum(axis=1), 1)
    for column in (0, 2):
        known = test.labels[:, column] >= 0
        assert roc_auc_score(test.labels[known, column], stated[known, column]) > 0.95
    losses = [
        log_loss(test.labels[known, column], stated[known, column], labels=[0, 1])
        for column, known in enumerate((test.labels >= 0).T)
    ]
    best = max(look["value"] for look in looks)
    assert [look["value"] for look in looks if look["chosen"]][-1] == best
    assert -np.mean(losses) == pytest.approx(best, rel=1e-5)
    assert all(fact["loss"] > 0 for fact in facts if "loss" in fact)


def test_an_image_of_which_no_label_is_known_changes_nothing(findings, make_run):
    train, judge = findings
    unknown = np.arange(len(train)) % 3 == 0
    labels = np.where(unknown[:, np.newaxis], -1, train.labels)
    black = replace(train, labels=labels, images=_blacken(train.images, unknown))
    first = fit_network(PLAIN, replace(train, labels=labels), judge, make_run("first"))
    second = fit_network(PLAIN, black, judge, make_run("second"))
    assert hash_weights(first) == hash_weights(second)
    told = fit_network(PLAIN, train, judge, make_run("told"))
    assert hash_weights(first) != hash_weights(told)


def _blacken(images: Any, which: np.ndarray) -> Any:
    ((name, (numbers, codes)),) = images.source.codes.items()
    codes = np.where(which[:, np.newaxis, np.newaxis], 0, codes).astype(codes.dtype)
    return replace(images, source=replace(images.source, codes={name: (numbers, codes)}))


def test_the_first_step_takes_the_loss_of_what_is_known(findings, make_run, monkeypatch):
    """Of a whole part in one batch it is the mean of the labels', each of its images alone."""
    plan = replace(PLAIN, batch_size=36, stages=(Stage(1, 1, 0.01),))
    losses: list[float] = []
    read_loss = fitting._read_loss
    monkeypatch.setattr(
        fitting, "_read_loss", lambda *a: losses.append(read_loss(*a)) or losses[-1]
    )
    train = findings[0].view(**plan.view)
    fit_network(plan, *findings, make_run())
    keras.utils.set_random_seed(make_run().seed)
    fresh = build_plain((16, 16, 1), 3, True)
    stated = predict(fresh, train.images)
    expected = [
        log_loss(train.labels[known, column], stated[known, column], labels=[0, 1])
        for column, known in enumerate((train.labels >= 0).T)
    ]
    assert losses == pytest.approx([np.mean(expected)], rel=1e-4)


def test_without_a_known_label_to_choose_by_the_last_epoch_counts(findings, make_run):
    looks: list[Any] = []
    train, judge = findings
    nothing = replace(judge, labels=np.full_like(judge.labels, -1))
    network = fit_network(ONE, train, nothing, make_run(looks=looks.append))
    assert looks == []
    assert np.isfinite(predict(network, judge.view(**ONE.view).images)).all()
