"""The verbs ``train``, ``evaluate``, ``predict`` and ``plugins``, as a user types them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace

from medkit.workspace import Workspace

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-centroid", CENTROID, names=("centroid",))
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def given(site: Path, root: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """What takes commands to this workspace, and to where the made-up trainers are installed."""
    path = os.pathsep.join([str(site), *sys.path])
    return ("-w", str(root)), {"PYTHONPATH": path, "COUNTED": str(site / "counted")}


@pytest.fixture(scope="module")
def cli(given: tuple[tuple[str, ...], dict[str, str]], call_cli: Cli) -> Cli:
    """The command line there."""

    def call(*arguments: object, **environment: str) -> Any:
        return call_cli(*arguments, *given[0], **given[1], **environment)

    return call


TRAIN = ("train", "set", "--label", "animal", "--folds", "2", "--threads", "1", "--device", "cpu")


def test_two_trainers_are_compared_on_the_same_folds_and_then_used(
    cli: Cli, root: Path, run_cli: Cli, given: tuple[tuple[str, ...], dict[str, str]]
) -> None:
    both = ("--plugin", "centroid", "--plugin", "pixels", "--name", "both")
    asked = (*TRAIN, *both, "-p", "size=6", "-p", "centroid.epochs=2")
    done = run_cli(*asked, *given[0], **given[1])
    assert done.exit_code == 0, done.stderr
    assert "balanced accuracy" in done.stdout
    assert "majority class" in done.stdout
    home = Workspace(root)
    for name in ("both-centroid", "both-pixels"):
        assert (home.run(name) / "report.html").is_file()
        record = json.loads((home.run(name) / "run.json").read_text())
        assert record["params"]["size"] == 6
        assert record["command"][:3] == ["medkit", "train", "set"]
    assert home.report("both").is_file()

    again = cli(*asked, "--json")
    assert [run["repeated"] for run in json.loads(again.stdout)["runs"]] == [True, True]

    refused = cli("evaluate", "both-centroid", "set", "--label", "animal")
    assert refused.exit_code == 1
    assert "was trained on 8 persons" in refused.stderr
    evaluated = cli(
        *("evaluate", "both-centroid", "set", "--label", "animal", "--allow-overlap", "--json"),
        *("--device", "cpu", "--threads", "1"),
    )
    assert json.loads(evaluated.stdout)["metrics"]["images"] == 16
    predicted = cli("predict", "both-pixels", "set", "--device", "cpu", "--threads", "1")
    assert predicted.exit_code == 0, predicted.stderr
    assert "16 images are predicted in" in predicted.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--plugin", "nought"), 2, "no trainer plugin is named 'nought'"),
        (("--plugin", "centroid", "-p", "colour=3"), 2, "-p colour: there is no such option"),
        (("--plugin", "centroid", "-p", "epochs=ten"), 2, "give an integer"),
        (("--plugin", "centroid", "--device", "tpu"), 2, "unknown device 'tpu'"),
        (("--plugin", "centroid", "--positive", "lynx"), 2, "'lynx' cannot be the positive class"),
        (("--plugin", "centroid", "--name", "../x"), 2, "cannot be a name"),
        (("--plugin", "centroid", "--classes", "yak,lynx"), 1, "lynx"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, message: str, cli: Cli
) -> None:
    done = cli(*TRAIN, *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_run_is_resumed_by_name_alone_and_contradictions_are_refused(
    cli: Cli, root: Path
) -> None:
    asked = ("--plugin", "centroid", "--name", "broken", "--no-saliency")
    broken = cli(*TRAIN, *asked, FAKE_FAULT="raise:1")
    assert broken.exit_code == 1
    assert "centroid: 2 folds on the processors, 1 threads" in broken.stderr
    assert "centroid: fold 2 of 2 failed after" in broken.stderr

    for arguments, message in {
        ("--seed", "3"): "seed 3 contradicts the run 'broken', which has 0",
        ("--plugin", "pixels"): "plugins ['pixels'] contradicts the run 'broken'",
        ("-p", "size=8"): "--resume takes options from the run",
    }.items():
        refused = cli("train", "--resume", "broken", *arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    unknown = cli("train", "--resume", "nought")
    assert unknown.exit_code == 2
    assert "gone on with: broken" in unknown.stderr

    resumed = cli("train", "--resume", "broken", "--seed", "0", "--no-saliency", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    (run,) = json.loads(resumed.stdout)["runs"]
    assert (run["run"], run["repeated"]) == ("broken", False)
    assert (Workspace(root).run("broken") / "report.html").is_file()
    again = cli("train", "--resume", "broken", "--no-saliency")
    assert "the run broken was done before" in again.stdout
    assert "balanced accuracy" in again.stdout


def test_what_train_needs_is_said(cli: Cli) -> None:
    done = cli("train", "set")
    assert done.exit_code == 2
    assert "train needs SET, --plugin and --label; or --resume RUN" in done.stderr
    missing = cli(*TRAIN, "--plugin", "centroid", "--engine", "ray://x")
    assert missing.exit_code == 2
    assert "unknown engine 'ray://x'; use 'local', 'dask://host:8786'" in missing.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--plugin", "centroid", "--help"), ("-h", "set", "--label", "x", "--plugin=centroid")],
)
def test_help_has_the_options_of_the_trainer_that_is_named(
    arguments: tuple[str, ...], site: Path, run_cli: Cli
) -> None:
    done = run_cli(
        *("train", *arguments), PYTHONPATH=os.pathsep.join([str(site), *sys.path]), COLUMNS="120"
    )
    assert done.exit_code == 0, done.stderr
    assert "--resume" in done.stdout
    for word in ("epochs", "an integer", "pause", "a number", "0.0"):
        assert word in done.stdout


def list_plugins(call_cli: Cli, site: Path, *options: str) -> Any:
    return call_cli("plugins", *options, PYTHONPATH=os.pathsep.join([str(site), *sys.path]))


def test_plugins_are_listed_from_metadata(site: Path, call_cli: Cli) -> None:
    listed = json.loads(list_plugins(call_cli, site, "list", "--json").stdout)
    assert not [text for text in listed["conflicts"] if "centroid" in text]
    assert {"centroid", "pixels"} <= {trainer["name"] for trainer in listed["plugins"]}
    assert "fake-centroid" in list_plugins(call_cli, site, "list").stdout


def test_a_conflict_is_listed_and_is_a_failure(site: Path, tmp_path: Path, call_cli: Cli) -> None:
    install(tmp_path, "fake-rival", CENTROID, names=("centroid",))
    done = call_cli(
        "plugins", "list", PYTHONPATH=os.pathsep.join([str(tmp_path), str(site), *sys.path])
    )
    assert done.exit_code == 1
    assert "fake-rival" in done.stdout
    assert "'centroid' is claimed by fake-centroid 1.2.3 and fake-rival 1.2.3" in done.stderr


def test_a_plugin_is_shown_with_its_options(site: Path, call_cli: Cli) -> None:
    shown = json.loads(list_plugins(call_cli, site, "show", "centroid", "--json").stdout)
    assert shown["tasks"] == ["multiclass"]
    options = {option["name"]: option for option in shown["options"]}
    assert options["epochs"]["default"] == "3"
    assert options["pause"]["takes"] == "a number"
    assert "an integer" in list_plugins(call_cli, site, "show", "centroid").stdout
