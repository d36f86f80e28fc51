"""Options given as text: what is read, what is refused, and what the message says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.errors import PluginError, UsageError, WorkspaceError
from medkit.training.params import (
    assign_options,
    list_options,
    option,
    parse_options,
    refuse_idle,
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


def refuse_slash(text: str) -> None:
    if "/" in text:
        raise WorkspaceError("give a name without '/'")


@dataclass(frozen=True)
class Limited:
    size: int = option(64, "Rows.", least=1)
    rate: float = option(0.1, "Of learning.", above=0)
    dropout: float | None = option(None, "Share.", least=0, below=1)
    blocks: tuple[int, ...] = option((16,), "Filters.", least=1, most=64)
    name: str = option("here", "Where.", check=refuse_slash)

    def __post_init__(self) -> None:
        if self.size < 2 ** len(self.blocks):
            least = 2 ** len(self.blocks)
            raise ValueError(
                f"size={self.size}: give {least} or more for {len(self.blocks)} blocks"
            )


LIMITS = {
    "size": ("an integer, 1 or more", lambda value: value >= 1),
    "rate": ("a number, above 0", lambda value: value > 0),
    "dropout": ("none or a number, 0 or more and below 1", lambda value: 0 <= value < 1),
    "blocks": (
        "any number of values with commas between, each an integer, 1 or more and 64 or less",
        lambda value: 1 <= value <= 64,
    ),
}


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
        ("dropout", "much", "none or a number"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_would_work(
    key: str, text: str, advice: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(Params, {key: text})
    assert str(caught.value).startswith(f"-p {key}={text}: give ")
    assert advice in str(caught.value)


def test_an_unknown_option_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'epochs'\? known: augment, blocks, drop"):
        parse_options(Params, {"epoch": "3"})


def test_a_required_option_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"-p size=\.\.\. must be given: an integer"):
        parse_options(Strict, {})


def test_what_the_dataclass_refuses_is_a_usage_error_in_its_words() -> None:
    with pytest.raises(UsageError, match="-p size=4: size is 4; it must be 8 or more"):
        parse_options(Strict, {"size": "4"})


def test_what_depends_on_several_options_names_the_one_that_is_at_fault() -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(Limited, {"size": "8", "blocks": "1,1,1,1"})
    assert str(caught.value) == "-p size=8: give 16 or more for 4 blocks"


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


def test_limits_stand_in_the_help() -> None:
    takes = {one.name: one.takes for one in list_options(Limited)}
    assert takes == {name: words for name, (words, _) in LIMITS.items()} | {"name": "text"}
    assert parse_options(Limited, {"dropout": "none"}) == Limited()


@given(
    name=st.sampled_from(list(LIMITS)),
    value=st.one_of(st.integers(-2, 66), st.floats(-1, 2), st.sampled_from([0, 1, 64, 65])),
)
def test_a_limit_refuses_what_lies_beyond_it_and_says_what_does_not(
    name: str, value: float
) -> None:
    words, fits = LIMITS[name]
    whole = name in ("size", "blocks")
    value = round(value) if whole else float(value)
    given_texts = {name: repr(value)} | ({"size": "100"} if name == "blocks" else {})
    if fits(value) and not (name == "size" and value < 2):
        read = getattr(parse_options(Limited, given_texts), name)
        assert read == ((value,) if name == "blocks" else value)
        return
    with pytest.raises(UsageError) as caught:
        parse_options(Limited, given_texts)
    allowed = words if not fits(value) else "2 or more for 1 blocks"
    assert str(caught.value) == f"-p {name}={value!r}: give {allowed}"


def test_a_check_of_its_own_is_answered_with_the_option_and_the_value() -> None:
    with pytest.raises(UsageError, match=r"-p name=a/b: give a name without '/'"):
        parse_options(Limited, {"name": "a/b"})


def test_what_is_stored_and_no_longer_fits_is_said_with_all_that_was_given() -> None:
    with pytest.raises(UsageError, match=r"-p size=8 -p colour=red: .*colour"):
        restore_params(Limited, {"size": 8, "colour": "red"})


def test_an_option_without_effect_is_refused_unless_it_is_the_default() -> None:
    refuse_idle(Limited(size=8, blocks=(16,)), ["blocks", "rate"], "leave it out")
    with pytest.raises(ValueError, match=r"^blocks=1,2: leave it out$"):
        refuse_idle(Limited(blocks=(1, 2)), ["blocks", "rate"], "leave it out")
