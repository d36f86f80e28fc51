"""What stands for an isolated trainer, and what listing many plugins touches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest
from faketrainer import install

from medkit.errors import PluginError, UsageError
from medkit.plugins import find_plugin, list_plugins, standins
from medkit.plugins import installers as tools
from medkit.plugins.building import pack_wheel
from medkit.plugins.candidates import list_core, read_wanted
from medkit.plugins.entries import Plugin
from medkit.plugins.homes import MARKER, Home, describe_home, list_homes
from medkit.plugins.introduction import _describe, _try
from medkit.training.params import list_options, option, parse_options
from medkit.workspace import write_json

SLEEPER = "raise SystemExit('imported')\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on ``sys.path`` for distributions made up by a test, and no isolated ones."""
    monkeypatch.setenv("MEDKIT_PLUGINS", str(tmp_path / "homes"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site"


@dataclass(frozen=True)
class Params:
    name: str = option(MISSING, "Must be given.")
    size: int = option(32, "Rows.", least=8)
    rate: float | None = option(None, "Of learning.", above=0, below=1)
    shape: tuple[int, ...] = option((3, 4), "Of layers.")
    solver: Literal["exact", "quick"] = option("exact", "Which.")
    even: int = option(2, "An even number.", check=lambda value: _check_even(value))

    def __post_init__(self) -> None:
        if self.solver == "quick" and self.size > 64:
            raise ValueError("size=: at most 64 with solver=quick")


def _check_even(value: int) -> None:
    if value % 2:
        raise ValueError("give an even number")


class Trainer:
    Params = Params
    tasks = frozenset({"multiclass"})

    def __init__(self, params: Params) -> None:
        self.head = "linear" if params.solver == "exact" else ""
        self.tasks = frozenset({"multiclass", "multilabel"}) if self.head else self.tasks


def make_home(folder: Path, **changes: object) -> Home:
    facts = {
        **{"folder": str(folder), "distribution": "fake-one", "requirement": "fake-one"},
        **{"editable": False, "light": False, "medkit": metadata.version("medkit")},
        **{"paths": (str(folder / "site"),), "created": "2026"},
    }
    return Home(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """The stand-in of `Trainer`, whose environment is this process."""

    def answer(entry: Plugin, python: str, asked: tuple[str, ...]) -> dict[str, object]:
        import json

        said = _try(Trainer, json.loads(asked[0])) if asked else _describe(Trainer)
        back: dict[str, object] = json.loads(json.dumps(said))
        return back

    monkeypatch.setattr(standins, "introduce", answer)
    home = make_home(tmp_path)
    entry = Plugin("one", "fake-one", "1", "", "fake_one", home=home)
    return standins.stand_in(entry, home)


def test_a_stand_in_has_the_options_of_its_trainer(stand_in: type) -> None:
    assert list_options(stand_in.Params) == list_options(Params)
    given = {"name": "a", "rate": "0.5", "shape": "1,2,3", "solver": "quick"}
    assert asdict(parse_options(stand_in.Params, given)) == asdict(parse_options(Params, given))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"name": "a", "size": "4"},
        {"name": "a", "rate": "1"},
        {"name": "a", "solver": "slow"},
        {"name": "a", "even": "3"},
        {"name": "a", "solver": "quick", "size": "65"},
        {"nam": "a"},
    ],
)
def test_a_stand_in_refuses_what_its_trainer_refuses(stand_in: type, given: dict[str, str]) -> None:
    with pytest.raises(UsageError) as real:
        parse_options(Params, given)
    with pytest.raises(UsageError) as stand:
        parse_options(stand_in.Params, given)
    assert str(stand.value) == str(real.value)


def test_tasks_and_head_may_follow_from_the_options(stand_in: type) -> None:
    exact = stand_in(parse_options(stand_in.Params, {"name": "a"}))
    quick = stand_in(parse_options(stand_in.Params, {"name": "a", "solver": "quick"}))
    assert (exact.head, exact.tasks) == ("linear", {"multiclass", "multilabel"})
    assert (quick.head, quick.tasks) == ("", {"multiclass"})


def test_a_question_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: type
) -> None:
    monkeypatch.setattr(standins, "introduce", lambda *_: pytest.fail("asked again"))
    home = make_home(tmp_path)
    entry = Plugin("one", "fake-one", "1", "", "fake_one", home=home)
    again = standins.stand_in(entry, home)
    assert [one.name for one in fields(again.Params)] == [one.name for one in fields(Params)]
    with pytest.raises(pytest.fail.Exception):  # its code can have changed
        standins.stand_in(entry, make_home(tmp_path, editable=True))


def test_an_environment_of_another_medkit_is_not_used(tmp_path: Path) -> None:
    home = make_home(tmp_path, medkit="0.0.1")
    with pytest.raises(PluginError, match=r"medkit 0\.0\.1.*plugins upgrade fake-one"):
        standins.stand_in(Plugin("one", "fake-one", "1", "", "fake_one", home=home), home)


def test_isolated_ones_are_listed_by_their_metadata(site: Path) -> None:
    folder = site.parent / "homes" / "fake-one-1"
    install(folder / "site", "fake-one", SLEEPER, names=("one",))
    assert not [one for one in list_plugins() if one.home]  # the marker comes last
    write_json(folder / MARKER, describe_home(make_home(folder)))
    (listed,) = [one for one in list_plugins() if one.home]
    assert (listed.name, listed.version, listed.home) == ("one", "1.2.3", list_homes()[0])
    newer = site.parent / "homes" / "fake-one-2"
    install(newer / "site", "fake-one", SLEEPER, names=("one",), version="2")
    write_json(newer / MARKER, describe_home(make_home(newer, created="2027")))
    assert find_plugin("trainer", "one").version == "2"  # made anew, and killed before the old went


def test_a_contract_that_is_not_known_here_is_told(site: Path) -> None:
    install(site, "fake-new", SLEEPER, names=("new",))
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_text(points.read_text().replace(".v1", ".v9"))
    (listed,) = [one for one in list_plugins("trainer") if one.name == "new"]
    assert listed.contract == 9
    assert listed.trouble == "needs a newer medkit (medkit.trainers.v9)"
    with pytest.raises(PluginError, match="needs a newer medkit"):
        find_plugin("trainer", "new")
    # A plugin may keep the next contract beside this one: the newest that is known is taken.
    points.write_text(points.read_text() + "[medkit.trainers.v1]\nnew = fake_new\n")
    assert find_plugin("trainer", "new").contract == 1


def test_help_and_listing_import_none_of_many_plugins(site: Path) -> None:
    for number in range(20):
        install(site, f"fake-sleeper-{number}", SLEEPER, names=(f"sleeper-{number}",))
    script = (
        "import sys\n"
        "from medkit.cli import main\n"
        "for words in ('--help', 'plugins list', 'plugins freeze', 'train --help'):\n"
        "    try:\n"
        "        main(words.split())\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, end.code\n"
        "assert not [name for name in sys.modules if name.startswith('fake_')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{script}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fake-sleeper-") >= 20


def test_the_child_imports_no_more_than_the_image_reader() -> None:
    def loaded(module: str) -> set[str]:
        script = f"import {module}, sys; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        own = {*sys.stdlib_module_names, "__mp_main__"}  # what multiprocessing calls __main__
        return {name.partition(".")[0] for name in done.stdout.split()} - own

    assert loaded("medkit.training.worker") <= loaded(
        "medkit.images.reader, medkit.images.imageset"
    )


def test_a_wheel_is_made_of_what_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    distribution = metadata.distribution("pluggy")
    wheel = pack_wheel(distribution, tmp_path)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    done = subprocess.run(
        [*command, str(tmp_path / "there"), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for file in distribution.files or ():
        if file.suffix == ".py":
            assert (tmp_path / "there" / file).read_bytes() == file.read_binary()
    (found,) = metadata.distributions(path=[str(tmp_path / "there")])
    assert found.version == distribution.version


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({}, "pip"),
        ({"pyvenv.cfg": "uv = 0.9\n"}, "uv"),
        ({"uv-receipt.toml": ""}, "uv tool"),
        ({"pipx_metadata.json": "{}"}, "pipx"),
    ],
)
def test_the_tool_of_an_environment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], name: str
) -> None:
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    monkeypatch.setattr(tools.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(tools, "find_uv", lambda: ("/somewhere/uv",))
    monkeypatch.setattr(tools, "find_spec", lambda module: True)
    tool = tools.find_tool()
    assert tool.name == name
    assert tool.is_uv == name.startswith("uv")


def test_what_the_core_needs_is_found_to_the_end() -> None:
    core = list_core()
    assert {"medkit", "numpy", "pandas", "python-dateutil"} <= set(core)
    assert core["numpy"] == metadata.version("numpy")
    assert "pytest" not in core  # of an extra


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("./nothing-here", "no file or folder"),
        ("-r evil.txt", "is no requirement"),
        ("medkit mine", "is no requirement"),
        ("missing.whl", "no file or folder"),
    ],
)
def test_what_cannot_be_installed_is_told_apart(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_wanted(text)


def test_names_urls_and_folders_are_wanted_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    assert read_wanted("medkit-x>=1").text == "medkit-x>=1"
    assert read_wanted("git+https://example.org/x.git").text == "git+https://example.org/x.git"
    assert read_wanted("x @ https://example.org/x.whl").text == "x @ https://example.org/x.whl"
    secret = read_wanted("git+https://user:secret@example.org/x.git")
    assert secret.shown == "git+https://example.org/x.git"
    assert read_wanted(str(tmp_path), editable=True).arguments == ("-e", str(tmp_path))
