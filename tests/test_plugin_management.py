"""``medkit plugins``: what is installed, where, and what is refused before anything changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from faketrainer import CENTROID, make_workspace
from wheels import Host, make_wheel

from medkit.plugins.installers import find_uv

pytest.importorskip("pip", reason="environments are filled with pip")
TRAINER = CENTROID


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def make_host(tmp_path: Path, wheels: Path) -> Callable[[str], Host]:
    return lambda name: Host(tmp_path / name, wheels)


@pytest.fixture
def host(make_host: Callable[[str], Host]) -> Host:
    return make_host("host")


def test_a_wheel_is_installed_listed_and_uninstalled(host: Host, wheels: Path) -> None:
    wheel = make_wheel(wheels, "fake-one", TRAINER, trainers=["one"])
    done = host("plugins", "install", wheel, "--json")
    assert done.exit_code == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["tool"] == "pip"
    assert told["plugins"] == ["trainer one"]
    assert (told["distribution"], told["version"]) == ("fake-one", "1.0")
    listed = host.list()["one"]
    assert (listed["kind"], listed["contract"], listed["isolated"]) == ("trainer", 1, False)
    assert host.list("--check")["one"]["works"] is True
    gone = host("plugins", "uninstall", "one")
    assert gone.exit_code == 0, gone.stderr
    assert host.list() == {}


def test_what_is_no_plugin_is_not_installed(host: Host, wheels: Path) -> None:
    make_wheel(wheels, "fake-library", "")
    done = host("plugins", "install", "fake-library")
    assert done.exit_code == 1
    assert "fake-library 1.0 has no plugin of medkit and is not installed" in done.stderr
    assert not list(host.folder.rglob("fake_library*"))


def test_what_needs_another_version_of_what_the_core_needs_is_refused(
    host: Host, wheels: Path
) -> None:
    make_wheel(wheels, "fake-old", TRAINER, trainers=["old"], needs=["numpy<1.1"])
    done = host("plugins", "install", "fake-old")
    assert done.exit_code == 1
    for word in ("fake-old 1.0 does not fit beside medkit", "numpy", "<1.1", "--isolated"):
        assert word in done.stderr
    assert not list(host.folder.rglob("fake_old*"))


def make_rivals(wheels: Path) -> None:
    """Write two trainers that need different major versions of one library."""
    for number, version in enumerate(("1.5", "2.5"), start=1):
        make_wheel(wheels, "fake-scale", f"VERSION = '{version}'\n", version=version)
        name = f"rival-{number}"
        code = TRAINER.replace("class Model:", "import fake_scale\n\n\nclass Model:").replace(
            'print("noise on standard output")', 'run.log(f"scale {fake_scale.VERSION}")'
        )
        needs = [f"fake-scale>={number},<{number + 1}"]
        make_wheel(wheels, f"fake-{name}", code, trainers=[name], needs=needs)


def test_two_that_need_different_versions_train_side_by_side(
    host: Host, wheels: Path, tmp_path: Path
) -> None:
    make_rivals(wheels)
    workspace = make_workspace(tmp_path)
    for name in ("rival-1", "rival-2"):
        done = host("plugins", "install", f"fake-{name}", "--light")
        assert done.exit_code == 0, done.stderr
    assert [one["isolated"] for one in host.list().values()] == [True, True]
    at = ["-w", workspace]
    trained = host(
        *("train", "set", "--plugin", "rival-1", "--plugin", "rival-2", "--label", "animal"),
        *("--folds", "2", "-p", "epochs=2", "--no-saliency", "--name", "both", "--json", *at),
    )
    assert trained.exit_code == 0, trained.stderr
    told = json.loads(trained.stdout)
    for run, version in zip(told["runs"], ("1.5", "2.5"), strict=True):
        log = (workspace / "runs" / run["run"] / "log.txt").read_text()
        assert f"scale {version}" in log
        assert run["metrics"]["metrics"]["accuracy"]["value"] == 1.0
    comparison = Path(told["reports"][-1]).read_text(encoding="utf-8")
    assert "rival-1" in comparison
    assert "rival-2" in comparison
    of = ("both-rival-2", "set", "--label", "animal", "--allow-overlap")
    predicted = host("evaluate", *of, "--json", *at)
    assert predicted.exit_code == 0, predicted.stderr


def test_what_would_break_another_plugin_or_take_its_name_is_refused(
    host: Host, wheels: Path
) -> None:
    make_rivals(wheels)
    assert host("plugins", "install", "fake-rival-1").exit_code == 0
    broken = host("plugins", "install", "fake-rival-2")
    assert broken.exit_code == 1
    assert "fake-rival-1 1.0 needs fake-scale<2,>=1, and 2.5 would come" in broken.stderr
    thief = make_wheel(wheels, "fake-thief", TRAINER, trainers=["rival-1"])
    taken = host("plugins", "install", thief)
    assert taken.exit_code == 1
    assert "so has fake-rival-1 1.0, which is installed" in taken.stderr
    assert list(host.list()) == ["rival-1"]


def test_a_file_brings_the_same_plugins_back(
    make_host: Callable[[str], Host], wheels: Path, tmp_path: Path
) -> None:
    make_wheel(wheels, "fake-scale", "VERSION = '1.5'\n", version="1.5")
    needs = ["fake-scale>=1"]
    make_wheel(wheels, "fake-apart", TRAINER, trainers=["apart"], needs=needs)
    local = make_wheel(tmp_path / "elsewhere", "fake-local", TRAINER, trainers=["local"])
    make_wheel(wheels, "fake-named", TRAINER, trainers=["named"])
    first, second = make_host("first"), make_host("second")
    for what in ((local,), ("fake-named",), ("fake-apart", "--light")):
        assert first("plugins", "install", *what).exit_code == 0
    file = tmp_path / "plugins.toml"
    assert first("plugins", "freeze", "-o", file).exit_code == 0
    # Newer ones are there by now, and are not taken.
    make_wheel(wheels, "fake-scale", "VERSION = '1.6'\n", version="1.6")
    make_wheel(wheels, "fake-named", TRAINER, version="1.1", trainers=["named"])
    frozen = tomllib.loads(file.read_text(encoding="utf-8"))["plugin"]
    said = {one["distribution"]: one for one in frozen if one["distribution"].startswith("fake-")}
    assert said["fake-named"]["requirement"] == "fake-named==1.0"
    assert said["fake-local"]["requirement"].startswith(f"fake-local @ {local.as_uri()}")
    assert said["fake-apart"]["pins"] == ["fake-apart==1.0", "fake-scale==1.5"]
    synced = second("plugins", "sync", file, "--json")
    assert synced.exit_code == 0, synced.stderr + synced.stdout
    facts = ("name", "distribution", "version", "isolated")
    listed = [[tuple(one[f] for f in facts) for one in h.list().values()] for h in (first, second)]
    assert listed[0] == listed[1]
    assert len(listed[0]) == 3
    (home,) = second.homes.glob("fake-apart-*")
    assert list(home.rglob("fake_scale-1.5.dist-info"))


@pytest.mark.soak
def test_an_upgrade_takes_the_newest_each_where_it_is(host: Host, wheels: Path) -> None:
    def publish(version: str) -> None:
        for name in ("named", "apart"):
            make_wheel(wheels, f"fake-{name}", TRAINER, version=version, trainers=[name])

    publish("1.0")
    assert host("plugins", "install", "fake-named").exit_code == 0
    assert host("plugins", "install", "fake-apart", "--light").exit_code == 0
    publish("1.1")
    assert host("plugins", "upgrade", "fake-named", "apart").exit_code == 0
    listed = host.list()
    assert {one["version"] for one in listed.values()} == {"1.1"}
    assert [listed[name]["isolated"] for name in ("named", "apart")] == [False, True]
    assert len(list(host.homes.glob("fake-apart-*"))) == 1


@pytest.mark.skipif(not find_uv(), reason="uv is not installed")
def test_uv_installs_where_uv_made_the_environment(host: Host, wheels: Path) -> None:
    with (host.folder / "pyvenv.cfg").open("a") as file:
        file.write("uv = 0.9\n")
    make_rivals(wheels)
    path = os.pathsep.join([str(Path(find_uv()[0]).parent), os.environ["PATH"]])
    done = host("plugins", "install", "fake-rival-1", "--json", PATH=path)
    assert done.exit_code == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert (told["tool"], told["brought"]) == ("uv", {"fake-scale": "1.5"})
    assert host("plugins", "uninstall", "rival-1", PATH=path).exit_code == 0
    assert host.list() == {}


def test_an_environment_that_was_not_finished_is_as_good_as_none(host: Host, wheels: Path) -> None:
    make_wheel(wheels, "fake-one", TRAINER, trainers=["one"])
    command = [str(host.python), "-P", "-m", "medkit", "plugins", "install", "fake-one", "--light"]
    process = subprocess.Popen(
        command, env=host.variables(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    while not list(host.homes.glob("fake-one-*/**/medkit-host.pth")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (half,) = host.homes.glob("fake-one-*")
    assert host.list() == {}
    assert host("plugins", "install", "fake-one", "--light").exit_code == 0
    (whole,) = host.homes.glob("fake-one-*")
    assert whole != half
    assert host.list()["one"]["isolated"] is True
    assert host("plugins", "uninstall", "fake-one").exit_code == 0
    assert [one.name for one in host.homes.iterdir()] == [".lock"]


@pytest.mark.network
def test_a_whole_environment_has_the_hosts_medkit_and_the_plugin(
    host: Host, wheels: Path, tmp_path: Path
) -> None:
    wheel = make_wheel(wheels, "fake-one", TRAINER, trainers=["one"], needs=["numpy<3"])
    online = {"PIP_NO_INDEX": "", "UV_NO_INDEX": ""}
    done = host("plugins", "install", wheel, "--isolated", **online)
    assert done.exit_code == 0, done.stderr
    assert host.list("--check")["one"]["works"] is True
    (home,) = host.homes.glob("fake-one-*")
    assert list(home.rglob("numpy/__init__.py"))
    workspace = make_workspace(tmp_path)
    asked = ("train", "set", "--plugin", "one", "--label", "animal", "--folds", "2")
    trained = host(*asked, "-w", workspace)
    assert trained.exit_code == 0, trained.stderr
