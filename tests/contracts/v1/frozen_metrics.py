"""The share that is right, a metric of medkit.metrics.v1. Frozen: never edit it."""

import medkit


@medkit.hookimpl
def medkit_metrics():
    from medkit.statistics.plugged import Metric

    return [Metric("frozen_accuracy", share_right, "Share that is right", "higher", 0.0, 1.0)]


def share_right(outcomes, weights):
    assert outcomes.probabilities.shape == (len(outcomes.labels), len(outcomes.classes))
    right = outcomes.decide() == outcomes.labels
    return (weights * right).sum(axis=1) / weights.sum(axis=1)
