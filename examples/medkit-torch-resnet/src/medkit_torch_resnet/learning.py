"""How a network learns from a batch, and how its weights become plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .fitting import WEIGHTS

if TYPE_CHECKING:
    from . import Options
    from .fitting import Arrays, Floats


def choose_device() -> torch.device:
    """Return the GPU, or the CPU where the host shows none."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    # Seen, and not explained: with oneDNN, PyTorch 2.13 crashed in the gradient of convolutions
    # from 8 to 8 channels, by two threads, when batches were not all of one size.
    switches: Any = torch.backends.mkldnn  # its types know no assignment
    switches.enabled = False
    return torch.device("cpu")


class Learner:
    """The network in training, by AdamW on the log loss, at a rate that falls by a cosine.

    Parameters
    ----------
    network : nn.Module
        With fresh weights.
    options : Options
        With ``learning_rate`` and ``weight_decay``.
    steps : int
        After which the rate is 0.
    device : torch.device
        Where it is trained.
    """

    def __init__(
        self, network: nn.Module, options: Options, steps: int, device: torch.device
    ) -> None:
        self.network = network.to(device)
        self._device, self._rate = device, options.learning_rate
        self._done, self._steps = 0, steps
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def reseed(self, seed: int) -> None:
        """Let dropout follow from a seed."""
        torch.manual_seed(seed)

    def train(self, pixels: Floats, labels: npt.NDArray[np.int64], weights: Floats) -> Any:
        """Take one step and return the loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * (1 + math.cos(math.pi * self._done / self._steps)) / 2
        self._done += 1
        self.network.train()
        logits = self.network(to_tensor(pixels, self._device))
        targets = torch.from_numpy(labels).to(self._device)
        counts = torch.from_numpy(weights).to(self._device)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * counts).sum() / counts.sum()
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._optimiser.step()
        return loss.detach()

    def judge(self, pixels: Floats) -> Floats:
        """Return the logits of images, shape (n, classes)."""
        return compute_logits(self.network, pixels, self._device)

    def read(self) -> Arrays:
        """Return copies of the weights, of what AdamW keeps of each, and of the steps taken."""
        arrays = read_weights(self.network) | {"done": np.array(self._done)}
        for number, state in self._optimiser.state_dict()["state"].items():
            for name, values in state.items():
                arrays[f"optimiser/{number}/{name}"] = _to_array(values)
        return arrays

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put everything where `read` found it."""
        write_weights(self.network, arrays)
        self._done = int(arrays["done"])
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, values in arrays.items():
            if name.startswith("optimiser/"):
                _, number, part = name.split("/")
                states.setdefault(int(number), {})[part] = torch.from_numpy(values)
        self._optimiser.load_state_dict(self._optimiser.state_dict() | {"state": states})


def to_tensor(pixels: Floats, device: torch.device) -> torch.Tensor:
    """Return images (n, H, W, C) as PyTorch has them, (n, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1))).to(device)


def compute_logits(network: nn.Module, pixels: Floats, device: torch.device) -> Floats:
    """Return what a network gives for images (n, H, W, C), shape (n, classes)."""
    network.eval()
    with torch.inference_mode():
        return np.asarray(network(to_tensor(pixels, device)).float().cpu().numpy())


def read_weights(network: nn.Module) -> Arrays:
    """Return copies of a network's weights, named ``weights/...``."""
    return {f"{WEIGHTS}{name}": _to_array(values) for name, values in network.state_dict().items()}


def write_weights(network: nn.Module, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give a network the weights among some arrays; raises RuntimeError if they do not fit."""
    found = {
        name.removeprefix(WEIGHTS): torch.from_numpy(values)
        for name, values in arrays.items()
        if name.startswith(WEIGHTS)
    }
    network.load_state_dict(found)


def _to_array(values: torch.Tensor) -> npt.NDArray[Any]:
    return np.array(values.detach().cpu().numpy())
