"""``medkit plugins new``: what it writes is whole, clean, installable, and passes its own tests."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from medkit.errors import UsageError
from medkit.scaffolding import distribution
from medkit.scaffolding.distribution import check_name, write_distribution
from medkit.scaffolding.frameworks import FRAMEWORKS
from medkit.testing import write_cohort

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"
# Nothing is fetched: hatchling is installed with the tests.
OFFLINE = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
# The shortest and the longest name: what is written must be clean with both.
NAMES = ("a", "b" * 15 + "-" + "c" * 16)
NETWORKS = [
    pytest.param("keras", marks=pytest.mark.soak),
    pytest.param("torch", marks=pytest.mark.torch),
    pytest.param("jax", marks=pytest.mark.jax),
]


def run(*command: object, cwd: Path | None = None, path: object = "") -> str:
    """Run one of Python's modules, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A distribution of each framework, with names that begin with it."""
    folder = tmp_path_factory.mktemp("written")
    return {each: write_distribution(f"try-{each}", each, folder) for each in FRAMEWORKS}


@pytest.fixture(scope="module")
def site(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip built and installed all of them into."""
    folder = tmp_path_factory.mktemp("site")
    run("pip", "install", *OFFLINE, "--target", folder, *written.values())
    return folder


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("", "a letter, then letters, digits and single hyphens"),
        ("My_Net", "such as 'my-net'"),
        ("2d-net", "a letter, then"),
        ("net-", "such as 'net'"),
        ("a--b", "such as 'a-b'"),
        ("../net", "such as 'net'"),
        ("netz-ä", "such as 'netz'"),
        ("x" * 33, "32 at most"),
        ("medkit-net", "such as 'net'"),
        ("lambda", "such as 'lambda-net'"),
        ("softmax", "the trainer of medkit-softmax .* installed"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_what_would_work(
    name: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=advice):
        write_distribution(name, "sklearn", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_an_installed_distribution_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"medkit-there": "1.0"}.__getitem__)
    with pytest.raises(UsageError, match=r"medkit-there 1\.0 is installed"):
        check_name("there")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_length_are_good(name: str) -> None:
    check_name(name)


def test_an_unknown_framework_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'theano'.*jax, keras, sklearn, torch"):
        write_distribution("net", "theano", tmp_path)


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "medkit-net" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_distribution("net", "torch", tmp_path)
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_it_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that ends in the middle, as a kill or a full disk would end it, leaves no folder."""
    with monkeypatch.context() as patch:
        patch.setitem(distribution._SHARED, "last.txt", "no-such-template")
        with pytest.raises(OSError, match="no-such-template"):
            write_distribution("net", "torch", tmp_path)
    assert not (tmp_path / "medkit-net").exists()
    folder = write_distribution("net", "torch", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["medkit-net"]
    assert (folder / "src" / "medkit_net" / "model.py").is_file()


def test_the_command_says_what_it_wrote_and_what_comes_next(
    tmp_path: Path, run_cli: Callable[..., object]
) -> None:
    done = run_cli("plugins", "new", "net", "--framework", "jax", "--into", tmp_path / "new")
    assert done.exit_code == 0, done.stderr
    assert "medkit plugins check net" in done.stdout
    assert "Apache-2.0" in done.stdout
    again = run_cli("plugins", "new", "net", "--framework", "jax", "--into", tmp_path / "new")
    assert again.exit_code == 2
    asked = ("plugins", "new", "other", "-f", "sklearn", "--into", tmp_path, "--json")
    told = json.loads(run_cli(*asked).stdout)
    there = [path for path in Path(told["folder"]).rglob("*") if path.is_file()]
    assert len(told["files"]) == len(there) > 5
    assert all((Path(told["folder"]) / file).is_file() for file in told["files"])


@pytest.mark.parametrize("name", NAMES)
def test_the_code_has_medkits_style(name: str, tmp_path: Path) -> None:
    for framework in FRAMEWORKS:
        folder = write_distribution(name, framework, tmp_path / framework)
        run("ruff", "check", "--no-cache", ".", cwd=folder)
        run("ruff", "format", "--no-cache", "--check", ".", cwd=folder)


@pytest.mark.soak
def test_the_code_is_typed(written: dict[str, Path], tmp_path: Path) -> None:
    """Strictly, also where the frameworks are not installed."""
    sources = [folder / "src" for folder in written.values()]
    options = ["--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    run("mypy", "--config-file=", f"--cache-dir={tmp_path}", *options, *sources, cwd=tmp_path)


def test_each_is_found_by_its_entry_point(site: Path) -> None:
    script = (
        "from medkit.plugins import load_trainer\n"
        "from medkit.training.params import list_options\n"
        f"for each in {sorted(FRAMEWORKS)!r}:\n"
        "    trainer = load_trainer(f'try-{each}')\n"
        "    assert all(one.help for one in list_options(trainer.Params))\n"
        "    print(each, *sorted(trainer.tasks))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == [f"{each} multiclass" for each in sorted(FRAMEWORKS)]


@pytest.mark.parametrize("framework", ["sklearn", *NETWORKS])
def test_each_passes_its_own_tests(framework: str, written: dict[str, Path], site: Path) -> None:
    pytest.importorskip(framework)
    folder = written[framework]
    run("pytest", "-q", "-x", "-p", "no:cacheprovider", folder, cwd=folder, path=site)


@pytest.mark.parametrize("framework", NETWORKS)
def test_each_network_learns_from_images_that_fill_little_of_their_range(
    framework: str, site: Path, tmp_path: Path
) -> None:
    """3 % of 16 bits, and no window in the header, as files of 12 bits often have them."""
    pytest.importorskip(framework)
    write_cohort(tmp_path / "images", persons=24, size=32)
    there = ("-w", tmp_path / "workspace")
    run("medkit", "catalog", tmp_path / "images", *there)
    run("medkit", "label", "kind", "--tag", "Modality", *there)
    run("medkit", "normalise", "set", "--size", "32", *there)
    train = ["train", "set", "--plugin", f"try-{framework}", "--label", "kind", "--folds", "2"]
    train += ["-p", "size=32", "--device", "cpu", "--threads", "1", "--json"]
    (result,) = json.loads(run("medkit", *train, *there, path=site))["runs"]
    assert result["metrics"]["delong"]["value"] > 0.9


@pytest.mark.parametrize(
    ("example", "framework"), [("medkit-sklearn", "sklearn"), ("medkit-torch-resnet", "torch")]
)
def test_the_examples_are_what_it_writes_and_more(
    example: str, framework: str, written: dict[str, Path]
) -> None:
    """Files of one name that are not the trainer's own are the same, byte for byte."""
    (mine,), (theirs,) = (
        list((folder / "src").glob("medkit_*"))
        for folder in (written[framework], EXAMPLES / example)
    )
    own = {"__init__.py", "network.py", "model.py", "forest.py"}
    shared = {path.name for path in mine.glob("*.py")} - own
    assert shared
    for name in shared:
        assert (mine / name).read_bytes() == (theirs / name).read_bytes(), name


def test_the_lines_that_the_tutorial_edits_are_there(tmp_path: Path) -> None:
    script = runpy.run_path(str(REPOSITORY / "benchmarks" / "plugin_tutorial.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    (made,) = (each for each in script["list_commands"](page) if " plugins new " in each)
    assert made == "medkit plugins new outlines --framework sklearn"
    write_distribution("outlines", "sklearn", tmp_path)
    edits = script["list_edits"](page)
    assert len(edits) == 3
    for file, old, new in edits:
        script["edit"](tmp_path, file, old, new)
        assert f"{new}\n" in (tmp_path / file).read_text(encoding="utf-8")
    run("ruff", "check", "--no-cache", ".", cwd=tmp_path / "medkit-outlines")
