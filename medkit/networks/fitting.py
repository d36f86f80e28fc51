"""Training: epochs that follow from their seeds, in stages, with a checkpoint after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medkit.errors import TrainingError
from medkit.networks.augmentation import Augmentation
from medkit.networks.batches import Part, draw_batches, make_batches, open_part
from medkit.networks.checkpoint import Standing, read_standing
from medkit.networks.hardware import Gpu, choose_policy, find_gpu, load_keras, use_policy
from medkit.networks.outputs import choose_loss, measure_log_loss, weigh_classes
from medkit.networks.prediction import halve_batch, predict
from medkit.networks.stepping import run_steps

if TYPE_CHECKING:
    import keras

    from medkit.training.contract import LabelledImages, RunContext

# Seconds between two looks at the loss amid an epoch: each waits for the GPU.
_PACE = 2.0


@dataclass(frozen=True)
class Stage:
    """Epochs with one set of layers to train and one learning rate.

    Parameters
    ----------
    epochs : int
        At most.
    patience : int
        Epochs without a better validation log loss before the stage ends.
    learning_rate : float
        Of Adam, at the start.
    schedule : str
        ``"constant"``, or ``"cosine"``: falls to 0 along half a cosine over the stage's epochs
        (Loshchilov and Hutter, arXiv:1608.03983, without restarts), step by step.
    unfreeze : callable, optional
        Takes the network and sets which of its layers are ``trainable``; those of earlier stages
        are called before it.
    """

    epochs: int
    patience: int
    learning_rate: float
    schedule: Literal["constant", "cosine"] = "constant"
    unfreeze: Callable[[keras.Model], None] | None = None


@dataclass(frozen=True)
class Plan:
    """What to train, and how.

    Parameters
    ----------
    build : callable
        Takes the shape of an image (H, W, C), the number of classes, and whether an image has
        several labels, and returns a network with fresh weights that ends in the layer that
        `outputs.make_output` makes. Every layer has a name of its own: Keras would number them by
        all that was built before in this process, and the numbers end up in the file of the
        weights.
    view : mapping
        Keywords of ``images.with_view``.
    stages : tuple of Stage
        One after another; each starts from the best weights so far.
    batch_size : int
        Images a step, halved when memory is full.
    class_weights : bool
        Weigh the classes equally; probabilities then assume equal prevalence.
    augmentation : Augmentation
        How training images are varied.
    precision : str
        Of `hardware.PRECISIONS`; see `hardware.choose_policy`.
    """

    build: Callable[[tuple[int, int, int], int, bool], keras.Model]
    view: Mapping[str, Any]
    stages: tuple[Stage, ...]
    batch_size: int = 32
    class_weights: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"


@dataclass(frozen=True)
class _Course:
    """What stays the same through a fit."""

    plan: Plan
    part: Part
    judge: Part
    shape: tuple[int, int, int]
    classes: int
    several: bool
    run: RunContext
    gpu: Gpu | None

    @property
    def checkpoint(self) -> Path:
        return self.run.checkpoints / "epoch.npz"

    @property
    def policy(self) -> str:
        return choose_policy(self.plan.precision, self.gpu)

    def build(self, policy: str) -> keras.Model:
        """Return the network with the fresh weights of the run's seed."""
        load_keras().utils.set_random_seed(self.run.seed)
        with use_policy(policy):
            return self.plan.build(self.shape, self.classes, self.several)

    def open(self, standing: Standing) -> keras.Model:
        """Return the network, ready for the next epoch."""
        network = self.build(self.policy)
        for stage in self.plan.stages[: standing.stage + 1]:
            if stage.unfreeze:
                stage.unfreeze(network)
        steps = -(-len(self.part) // standing.batch_size)
        optimiser = _compile(network, stage, steps, self.several)
        standing.restore(network)
        if standing.weights and standing.batch_size != standing.trained_batch:
            # Smaller batches are more steps: the schedule goes on from where the epochs are.
            optimiser.iterations.assign((standing.epochs - standing.start) * steps)
        return network


def fit_network(
    plan: Plan, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> keras.Model:
    """Train a network and return it with the weights of the best epoch.

    Without validation images there is nothing to choose by: all epochs run, the last one counts.
    A fit that was killed goes on from its last whole epoch, and on a CPU, with as many threads,
    ends with the very weights of an unbroken one.

    Parameters
    ----------
    plan : Plan
        What to train, and how.
    train, validation : LabelledImages
        In any view; the plan's is used.
    run : RunContext
        Gets a look an epoch, and is told how the fit stands.

    Returns
    -------
    keras.Model
        Of float32, not compiled: it is saved without an optimiser.

    Raises
    ------
    TrainingError
        If the loss stops being a number, not even one image fits in memory, or the user stops the
        run.
    """
    course = _begin(plan, train, validation, run)
    standing = read_standing(course.checkpoint, plan.batch_size)
    while standing.enter(plan.stages):
        standing = _run_stage(course, standing)
    trained = course.build("float32")
    trained.set_weights(standing.best)
    return trained


def _begin(
    plan: Plan, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> _Course:
    gpu = find_gpu()
    factors, several = weigh_classes(train, plan.class_weights), train.labels.ndim == 2
    seen = train.view(**plan.view)
    part = open_part(seen, factors, on_device=gpu is not None and not plan.augmentation)
    judge = open_part(validation.view(**plan.view), factors)
    height, width, channels = seen.images.shape[1:]
    shape, classes = (height, width, channels), len(train.classes)
    course = _Course(plan, part, judge, shape, classes, several, run, gpu)
    run.log(f"training on {gpu.name if gpu else 'the CPU'} in {course.policy}")
    return course


def _compile(network: keras.Model, stage: Stage, steps: int, several: bool) -> Any:
    """Make a network ready for a stage, by Adam on the log loss; return what counts the steps.

    Keras uses XLA on a GPU and on JAX, where it helps, and not for TensorFlow on a CPU, where it
    halves the speed. With float16 it scales the loss.
    """
    optimizers = load_keras().optimizers
    rate: Any = stage.learning_rate
    if stage.schedule == "cosine":
        rate = optimizers.schedules.CosineDecay(rate, stage.epochs * steps)
    network.compile(optimizer=optimizers.Adam(rate), loss=choose_loss(several))
    network.optimizer.build(network.trainable_variables)
    return getattr(network.optimizer, "inner_optimizer", network.optimizer)


def _run_stage(course: _Course, standing: Standing) -> Standing:
    """Train to the end of a stage; where memory is full, return to the last checkpoint instead."""
    try:
        network = course.open(standing)
        while not standing.has_ended(course.plan.stages[standing.stage]):
            _run_epoch(course, network, standing)
        return standing
    except Exception as error:
        size = halve_batch(standing.batch_size, error)
    # Only here, past the error, is the network's memory free again.
    course.run.log(
        f"out of memory with batches of {standing.batch_size} images: epoch "
        f"{standing.epochs + 1} begins again with {size}"
    )
    restored = read_standing(course.checkpoint, size)
    restored.batch_size = size
    return restored


def _run_epoch(course: _Course, network: keras.Model, standing: Standing) -> None:
    run, epoch = course.run, standing.epochs + 1
    total = sum(stage.epochs for stage in course.plan.stages)
    run.status(epoch=epoch - 1, epochs=total, batch_size=standing.batch_size)
    _reseed(network, run.seed, epoch)
    _train_epoch(course, network, epoch, standing.batch_size)
    loss = _judge(network, course.judge)
    chosen = standing.record(loss, network)
    if loss is not None:
        run.log(f"validation log loss of epoch {epoch}: {loss:.4f}")
        run.look(epoch, -loss, chosen)
        run.status(validation_loss=loss)
    standing.save(course.checkpoint, network)
    run.progress(epoch, total, "epochs")


def _train_epoch(course: _Course, network: keras.Model, epoch: int, size: int) -> None:
    """Train for an epoch; what is drawn follows from run seed and epoch alone."""
    run, seeds = course.run, (course.run.seed, epoch)
    rows = draw_batches(len(course.part), size, np.random.default_rng(seeds))
    threads = run.threads if course.gpu else 0
    began = told = time.monotonic()
    done, loss = 0, math.nan
    with closing(make_batches(course.part, rows, course.plan.augmentation, seeds, threads)) as made:
        for part, tensor in zip(rows, run_steps(network, made), strict=True):
            if run.stopping():
                raise TrainingError(f"stopped in epoch {epoch}; run again to go on from its start")
            done += len(part)
            if done == len(course.part) or time.monotonic() - told >= _PACE:
                loss = _read_loss(tensor, epoch)
                told = time.monotonic()
                run.status(loss=loss, images_per_second=done / (told - began))
    run.log(f"training loss of epoch {epoch}: {loss:.4f}")


def _read_loss(tensor: Any, epoch: int) -> float:
    loss = float(load_keras().ops.convert_to_numpy(tensor))
    if not math.isfinite(loss):
        raise TrainingError(
            f"the training loss of epoch {epoch} is not a number; a smaller -p learning_rate "
            "would work"
        )
    return loss


def _reseed(network: keras.Model, seed: int, epoch: int) -> None:
    for number, layer in enumerate(network.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            # 31 bits: the state is signed in one backend and unsigned in another.
            drawn = np.random.SeedSequence((seed, epoch, number)).generate_state(1) >> 1
            generator.state.assign([int(drawn[0]), 0])


def _judge(network: keras.Model, judge: Part) -> float | None:
    """Return the log loss of what is chosen by; None where there is nothing, or nothing known."""
    if not judge.weights.any():
        return None
    loss = measure_log_loss(predict(network, judge.pixels), judge.labels, judge.weights)
    if loss is not None and not math.isfinite(loss):
        raise TrainingError(
            "the validation loss is not a number; a smaller -p learning_rate would work"
        )
    return loss
