"""The network: a stem, stages of residual blocks, and a dense layer on the averaged maps.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), with blocks
that begin as the identity: Goyal et al., arXiv:1706.02677, section 5.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from . import Options


class Residual(nn.Module):
    """Two convolutions, added to what went in.

    Parameters
    ----------
    inputs, filters : int
        Channels that come in and go out.
    stride : int
        2 halves the rows and columns.
    norm : str
        ``"group"`` or ``"batch"``.
    """

    def __init__(self, inputs: int, filters: int, stride: int, norm: str) -> None:
        super().__init__()
        last = _make_norm(norm, filters)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False),
            _make_norm(norm, filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, filters, 1, stride, bias=False), _make_norm(norm, filters)
            )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the maps of the block."""
        return torch.relu(self.body(values) + self.shortcut(values))


class ResNet(nn.Module):
    """The network, from images (n, C, H, W) to logits (n, classes).

    Parameters
    ----------
    options : Options
        What it is made of.
    classes : int
        How many it tells apart.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [_make_stem(options)]
        inputs = options.width
        for number, blocks in enumerate(options.blocks):
            filters = options.width * 2**number
            for block in range(blocks):
                stride = 2 if number and not block else 1
                stages.append(Residual(inputs, filters, stride, options.norm))
                inputs = filters
        self.maps = nn.Sequential(*stages)
        self.dropout = nn.Dropout(options.dropout)
        self.dense = nn.Linear(inputs, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.dense(self.dropout(self.maps(images).mean(dim=(2, 3))))
        return logits

    def locate(self, images: torch.Tensor) -> torch.Tensor:
        """Return what each place says for the predicted class, shape (n, h, w).

        The class activation map (Zhou et al., CVPR 2016): its mean is the class's logit, above the
        mean logit of all classes.
        """
        maps = self.maps(images)
        logits = torch.einsum("nkhw,ck->nchw", maps, self.dense.weight)
        logits = logits + self.dense.bias[:, None, None]
        above = logits - logits.mean(dim=1, keepdim=True)
        chosen = logits.mean(dim=(2, 3)).argmax(dim=1)
        return above[torch.arange(len(images), device=images.device), chosen]


def _make_stem(options: Options) -> nn.Module:
    norm = _make_norm(options.norm, options.width)
    if options.stem == "small":
        convolution = nn.Conv2d(options.depth, options.width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, norm, nn.ReLU())
    convolution = nn.Conv2d(options.depth, options.width, 7, 2, padding=3, bias=False)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))


def _make_norm(norm: str, filters: int) -> nn.GroupNorm | nn.BatchNorm2d:
    if norm == "batch":
        return nn.BatchNorm2d(filters)
    groups = math.gcd(filters, max(1, filters // 8))  # of eight, as a rule
    return nn.GroupNorm(groups, filters)  # Wu and He, ECCV 2018
