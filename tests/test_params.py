"""Options given as text: what is read, what is refused, and what the message says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.errors import PluginError, UsageError
from medkit.training.params import (
    assign_options,
    list_options,
    parse_options,
    restore_params,
)
from medkit.workspace import dump_json


@dataclass(frozen=True)
class Params:
    epochs: int = field(default=10, metadata={"help": "Passes over the training part."})
    rate: float = 0.001
    augment: bool = False
    window: str = "header"
    blocks: tuple[int, ...] = (16, 32)
    size: tuple[int, int] = (64, 64)
    pooling: Literal["max", "mean"] = "max"
    dropout: float | None = None
    weights: Optional[str] = "imagenet"  # noqa: UP045 - both spellings must be read


@dataclass(frozen=True)
class Other:
    epochs: int = 3
    layer: str = "mixed10"


@dataclass(frozen=True)
class Strict:
    size: int

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"size is {self.size}; it must be 8 or more")


READ = {
    ("epochs", "30"): 30,
    ("rate", "1e-2"): 0.01,
    ("augment", "true"): True,
    ("augment", "No"): False,
    ("window", "40/400,lung"): "40/400,lung",
    ("window", "a=b"): "a=b",
    ("blocks", "8"): (8,),
    ("blocks", "8, 16,32"): (8, 16, 32),
    ("blocks", ""): (),
    ("size", "96,128"): (96, 128),
    ("pooling", "mean"): "mean",
    ("dropout", "none"): None,
    ("dropout", "0.5"): 0.5,
    ("weights", "none"): None,
    ("weights", "/models/file.h5"): "/models/file.h5",
}


@pytest.mark.parametrize(("key", "text"), READ)
def test_a_text_is_read_by_the_type_of_its_field(key: str, text: str) -> None:
    assert getattr(parse_options(Params, {key: text}), key) == READ[key, text]


def test_what_is_not_given_keeps_its_default() -> None:
    assert parse_options(Params, {"epochs": "2"}) == Params(epochs=2)


@pytest.mark.parametrize(
    ("key", "text", "advice"),
    [
        ("epochs", "ten", "an integer"),
        ("epochs", "1.5", "an integer"),
        ("rate", "nan", "a number"),
        ("augment", "maybe", "true or false"),
        ("blocks", "8,x", "with commas between, each an integer"),
        ("size", "64", "2 values"),
        ("pooling", "min", "one of max, mean"),
        ("dropout", "much", "a number or none"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_would_work(
    key: str, text: str, advice: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(Params, {key: text})
    assert f"-p {key}={text!r}" in str(caught.value)
    assert advice in str(caught.value)


def test_an_unknown_option_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'epochs'\? known: augment, blocks, drop"):
        parse_options(Params, {"epoch": "3"})


def test_a_required_option_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"-p size=\.\.\. must be given: an integer"):
        parse_options(Strict, {})


def test_what_the_dataclass_refuses_is_a_usage_error_in_its_words() -> None:
    with pytest.raises(UsageError, match="size is 4; it must be 8 or more"):
        parse_options(Strict, {"size": "4"})


def test_options_are_listed_with_help_and_a_default_that_can_be_given_back() -> None:
    options = {option.name: option for option in list_options(Params)}
    assert options["epochs"].help == "Passes over the training part."
    given_back = {name: option.default or "" for name, option in options.items()}
    assert parse_options(Params, given_back) == Params()
    assert list_options(Strict)[0].default is None


def test_a_type_that_no_text_can_be_read_as_is_the_plugins_fault() -> None:
    @dataclass(frozen=True)
    class Odd:
        folder: dict[str, int] = field(default_factory=dict)

    with pytest.raises(PluginError, match="dict"):
        list_options(Odd)
    with pytest.raises(PluginError, match="cannot be read"):
        list_options(Path)


def test_a_bare_key_goes_to_every_plugin_that_has_it() -> None:
    assigned = assign_options(
        ["epochs=5", "layer=mixed8", "cnn.rate=0.1"], {"cnn": Params, "inception": Other}
    )
    assert assigned == {
        "cnn": {"epochs": "5", "rate": "0.1"},
        "inception": {"epochs": "5", "layer": "mixed8"},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["epochs"], "has no '='"),
        (["colour=3"], "no such option"),
        (["cnn.layer=mixed8"], "no such option"),
        (["resnet.epochs=3"], "no plugin 'resnet' runs here; running: cnn, inception"),
        (["epochs=3", "cnn.epochs=4"], "given twice for the plugin 'cnn'"),
    ],
)
def test_an_option_that_fits_no_plugin_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assign_options(given, {"cnn": Params, "inception": Other})


@given(
    epochs=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    blocks=st.lists(st.integers(), max_size=5),
    window=st.text(max_size=20),
)
def test_params_survive_text_and_json(
    epochs: int, rate: float, blocks: list[int], window: str
) -> None:
    import json

    made = parse_options(
        Params,
        {
            "epochs": str(epochs),
            "rate": repr(rate),
            "blocks": ",".join(map(str, blocks)),
            "window": window,
        },
    )
    assert made == Params(epochs=epochs, rate=rate, blocks=tuple(blocks), window=window)
    assert restore_params(Params, json.loads(dump_json(asdict(made)))) == made
