"""One compiled training step after another, with nothing read back in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from medkit.networks.hardware import load_keras

if TYPE_CHECKING:
    import keras


def run_steps(network: keras.Model, batches: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Train on each batch and yield the mean loss of all batches so far.

    The loss is a tensor where the network computes: to read it is to wait for that. The network
    has its new weights when all batches are through.

    Parameters
    ----------
    network : keras.Model
        Compiled, its optimiser built.
    batches : iterable of tuple
        Pixels, labels and the weights of the images.
    """
    network.reset_metrics()
    network.make_train_function()
    run = _run_stateless if load_keras().backend.backend() == "jax" else _run
    yield from run(network, batches)


def _run(network: keras.Model, batches: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    for batch in batches:
        yield network.train_function([batch])["loss"]


def _run_stateless(network: keras.Model, batches: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Train as `_run` does, on JAX: what changes goes into each step and comes out of it."""
    groups = (
        network.trainable_variables,
        network.non_trainable_variables,
        network.optimizer.variables,
        network.metrics_variables,
    )
    state: Any = tuple([variable.value for variable in group] for group in groups)
    for batch in batches:
        logs, state = network.train_function(state, iter([batch]))
        yield logs["loss"]
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
