"""Every option of every trainer: shown by the command line, documented, limited."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from medkit.errors import UsageError
from medkit.plugins import list_plugins, load_trainer
from medkit.training.params import list_options, parse_options

OURS = {"softmax", "cnn", "inception"}
INSTALLED = sorted({entry.name for entry in list_plugins("trainer")} & OURS)


@pytest.fixture(params=INSTALLED)
def plugin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def params(plugin: str) -> Any:
    return load_trainer(plugin).Params


def test_the_help_of_train_has_every_option(plugin: str, params: Any) -> None:
    command = [sys.executable, "-m", "medkit", "train", "--plugin", plugin, "--help"]
    wide = os.environ | {"COLUMNS": "250"}
    done = subprocess.run(command, capture_output=True, text=True, env=wide, check=True)
    shown = done.stdout.split()
    for one in list_options(params):
        assert one.name in shown
        assert one.help
        assert one.help.split()[-1] in shown


def test_what_is_no_value_is_answered_with_what_would_be(params: Any) -> None:
    for one in list_options(params):
        with pytest.raises(UsageError) as caught:
            parse_options(params, {one.name: "?!"})
        said = str(caught.value)
        assert said.startswith(f"-p {one.name}=?!: "), said
        assert "give " in said or "use " in said, said


def test_no_number_is_without_a_limit(params: Any) -> None:
    for one in list_options(params):
        if "integer" in one.takes or "number" in one.takes:
            with pytest.raises(
                UsageError, match=f"-p {one.name}=-1000000000: give .*(or more|above)"
            ):
                parse_options(params, {one.name: "-1000000000"})


def test_the_defaults_can_be_given_back(params: Any) -> None:
    given = {one.name: one.default for one in list_options(params) if one.default is not None}
    assert parse_options(params, given) == params()
