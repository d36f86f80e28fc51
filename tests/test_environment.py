"""The environment of a child process: the device, the threads, the backend."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medkit.errors import UsageError
from medkit.training import environment
from medkit.training.environment import Environment, Gpu, choose_environment, describe_cards

TWO_GPUS = """#!/bin/sh
echo "GPU 0: Made Up (UUID: GPU-0)"
echo "GPU 1: Made Up (2) (UUID: GPU-1)"
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi lists two."""
    if os.name != "posix":
        pytest.skip("needs a shell script")
    command = tmp_path / "nvidia-smi"
    command.write_text(TWO_GPUS)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "look_for_gpus", lambda backend: (["Made Up"], ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_processor_and_gpu_is_refused() -> None:
    assert choose_environment("auto").device == "cpu"
    with pytest.raises(UsageError, match=r"there are 0 GPUs here .*; use --device cpu or auto"):
        choose_environment("gpu")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_found_and_the_others_are_hidden() -> None:
    assert choose_environment("auto").device == "gpu"
    assert choose_environment("gpu:1").variables()["CUDA_VISIBLE_DEVICES"] == "1"
    both = choose_environment("gpu")
    assert [both.variables(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0", "1"]
    assert both.gpus == (Gpu("0", "Made Up"), Gpu("1", "Made Up (2)"))
    assert both.variables()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert choose_environment("cpu").variables()["CUDA_VISIBLE_DEVICES"] == "-1"
    with pytest.raises(UsageError, match="there are 2 GPUs"):
        choose_environment("gpu:2")


@pytest.mark.usefixtures("two_gpus")
def test_a_user_who_hides_the_gpus_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert choose_environment("auto").device == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_counted_among_those_the_user_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    variables = choose_environment("gpu:0").variables()
    assert variables["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_DEVICE_ORDER" not in variables
    with pytest.raises(UsageError, match="there are 1 GPUs"):
        choose_environment("gpu:1")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_shown_by_its_uuid_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-9")
    assert choose_environment().gpus == (Gpu("GPU-1", "Made Up (2)"), Gpu("GPU-9", "GPU-9"))


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_the_backend_cannot_use_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(environment, "look_for_gpus", lambda backend: ([], f"no CUDA: {backend}"))
    found = choose_environment("auto")
    assert (found.device, found.gpus) == ("cpu", ())
    assert found.note == (
        "Made Up, Made Up (2) is here, and tensorflow cannot use it: no CUDA: tensorflow; "
        "training uses the processors"
    )
    with pytest.raises(UsageError, match="no CUDA: tensorflow; use --device cpu or auto"):
        choose_environment("gpu:1")
    assert choose_environment("cpu").note == ""


@pytest.mark.parametrize("device", ["tpu", "gpu:", "gpu:x", "CPU", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match="use auto, cpu, gpu or gpu:0"):
        choose_environment(device)


def test_the_users_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert choose_environment("cpu").variables()["KERAS_BACKEND"] == "jax"


def test_the_first_backend_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    installed = {"jax", "torch"}
    monkeypatch.setattr("medkit.training.environment.find_spec", lambda name: name in installed)
    assert choose_environment("cpu").backend == "jax"
    installed.clear()
    found = choose_environment("cpu")
    assert found.backend == "none"
    assert "KERAS_BACKEND" not in found.variables()


def test_threads_and_randomness_are_pinned() -> None:
    variables = Environment("cpu", 3, "none").variables()
    assert variables["OMP_NUM_THREADS"] == variables["TF_NUM_INTRAOP_THREADS"] == "3"
    assert variables["PYTHONHASHSEED"] == "0"
    assert variables["TF_DETERMINISTIC_OPS"] == "1"


def test_a_child_finds_what_the_host_finds_and_nothing_in_the_folder_it_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "fake_plugin.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "numpy.py").write_text("raise RuntimeError('raw data was imported')")
    subprocess.run(
        [sys.executable, "-P", "-c", "import numpy, fake_plugin, medkit"],
        cwd=tmp_path,
        env=Environment("cpu", 1, "none").variables(),
        check=True,
    )


def test_what_identifies_a_run_has_no_kernel_version_in_it() -> None:
    described = Environment("cpu", 1, "none").describe()
    assert set(described) == {"device", "threads", "backend", "versions"}
    assert "platform" not in described["versions"]


def test_equal_cards_are_counted() -> None:
    assert describe_cards([Gpu("0", "A"), Gpu("1", "B"), Gpu("2", "A")]) == "2 x A, B"
