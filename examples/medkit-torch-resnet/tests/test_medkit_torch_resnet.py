"""The network alone, by medkit's conformance kit, and cross-validated by medkit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from medkit.errors import UsageError
from medkit.testing import TrainerConformance, write_cohort
from medkit.training.params import list_options, parse_options

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from medkit_torch_resnet import Options  # noqa: E402 - found by the line above

torch = pytest.importorskip("torch", reason="make torch installs it")
pytestmark = pytest.mark.torch

SMALL = {
    "size": "16",
    "blocks": "1,1",
    "width": "8",
    "epochs": "8",
    "batch_size": "8",
    "learning_rate": "0.01",
}
# Everything that draws at random while it trains.
VARIED = {"shift": "0.1", "rotate": "10", "intensity": "0.1", "mirror": "true", "dropout": "0.5"}


def build(classes: int = 3, **options: object) -> torch.nn.Module:
    from medkit_torch_resnet.network import ResNet

    torch.manual_seed(0)
    return ResNet(Options(**options), classes)


@pytest.mark.usefixtures("installed")
class TestConformance(TrainerConformance):
    plugin = "resnet"
    params: ClassVar[dict[str, str]] = SMALL


@pytest.mark.usefixtures("installed")
class TestConformanceOfAllThatIsRandom(TrainerConformance):
    plugin = "resnet"
    params: ClassVar[dict[str, str]] = SMALL | VARIED | {"norm": "batch", "class_weights": "true"}


def test_it_is_resnet_18_where_that_is_asked_for() -> None:
    """11.69 million parameters, as He et al. have it for 1000 classes of colour images."""
    network = build(1000, size=224, stem="large", width=64, channels=3, norm="batch")
    assert sum(values.numel() for values in network.parameters()) == 11_689_512
    with torch.inference_mode():
        assert network.maps(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize("stem", ["small", "large"])
@pytest.mark.parametrize("depth", [1, 3])
def test_what_the_maps_say_is_what_the_network_decides(stem: str, depth: int) -> None:
    network = build(size=32, stem=stem, channels=depth, width=8).eval()
    torch.nn.init.normal_(network.dense.bias)
    images = torch.randn(5, depth, 32, 32)
    with torch.inference_mode():
        logits, maps = network(images), network.locate(images)
    above = logits.max(dim=1).values - logits.mean(dim=1)
    torch.testing.assert_close(maps.mean(dim=(1, 2)), above, atol=1e-5, rtol=1e-4)


def test_a_fresh_block_is_the_identity_of_what_is_above_0() -> None:
    from medkit_torch_resnet.network import Residual

    values = torch.randn(2, 8, 6, 6)
    with torch.inference_mode():
        torch.testing.assert_close(Residual(8, 8, 1, "group")(values), values.relu())


def test_several_windows_are_a_channel_each() -> None:
    assert Options(window="lung,soft,bone").depth == 3
    assert build(window="lung,soft,bone")(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_a_smaller_set_of_weights_is_refused(tmp_path: Path) -> None:
    from medkit_torch_resnet.learning import read_weights, write_weights

    weights = read_weights(build(blocks=(1, 1)))
    del weights["weights/dense.bias"]
    with pytest.raises(RuntimeError, match=r"dense\.bias"):
        write_weights(build(blocks=(1, 1)), weights)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("size", "1", "2 or more"),
        ("size", "4", "4 stages behind a small stem need at least 8"),
        ("blocks", "", "the blocks of one stage or more"),
        ("blocks", "0,1", "each an integer, 1 or more"),
        ("stem", "tiny", "one of small, large"),
        ("norm", "none", "one of group, batch"),
        ("window", "lungs", "lung"),
        ("dropout", "1", "below 1"),
        ("learning_rate", "0", "above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, text: str, allowed: str) -> None:
    assert all(one.help for one in list_options(Options))
    with pytest.raises(UsageError, match=f"^-p {name}={text}: .*{allowed}"):
        parse_options(Options, {name: text})


def test_medkit_cross_validates_it(tmp_path: Path, installed: str) -> None:
    """It learns, from images that fill 3 % of their range and have no window."""
    write_cohort(tmp_path / "images", persons=24, size=32)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "medkit", *arguments, "-w", str(tmp_path / "workspace")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("catalog", str(tmp_path / "images"))
    run("label", "kind", "--tag", "Modality")
    run("normalise", "set", "--size", "32")
    small = ["size=32", "blocks=1,1", "epochs=10", "batch_size=8", "learning_rate=0.003"]
    options = [part for text in small for part in ("-p", text)]
    train = ["train", "set", "--plugin", "resnet", "--label", "kind", "--folds", "2"]
    (result,) = json.loads(run(*train, *options, "--device", "cpu", "--threads", "1", "--json"))[
        "runs"
    ]
    assert result["metrics"]["images"] == 72
    assert result["metrics"]["delong"]["value"] > 0.9
    (run_folder,) = (tmp_path / "workspace" / "runs").glob("*resnet*")
    (first, *_) = sorted(run_folder.glob("fold-*/model"))
    assert {file.suffix for file in first.iterdir()} == {".json", ".npz"}
    with np.load(first / "weights.npz", allow_pickle=False) as weights:
        assert all(np.isfinite(weights[name]).all() for name in weights.files)
