"""What ``medkit doctor`` says, and the secrets that it does not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from medkit import diagnosis
from medkit.diagnosis import (
    DECODERS,
    NOTE,
    OK,
    PROBLEM,
    check_backend,
    check_credentials,
    check_dask,
    check_decoders,
    check_disk,
    check_packages,
    check_python,
    explain_missing_gpu,
    look_for_gpus,
)

CANARY = "canary-3f1c"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), PROBLEM), ((3, 11), OK), ((3, 13), OK), ((3, 14), PROBLEM)]
)
def test_a_python_that_is_not_supported_is_a_problem(version: tuple[int, int], state: str) -> None:
    assert check_python(version).state == state


def test_a_missing_package_is_a_problem_and_a_missing_extra_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = ["no-such>=1", "pydicom>=3", 'no-extra; extra == "demo"', 'pytest; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    versions = {"medkit": "1.2", "pydicom": "3.0.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.topic: (finding.state, finding.detail) for finding in check_packages()}
    assert found == {
        "medkit": (OK, "1.2"),
        "no-extra": (OK, "not installed; comes with medkit[demo]"),
        "no-such": (PROBLEM, "missing; pip install no-such"),
        "pydicom": (OK, "3.0.2"),
    }


def test_medkit_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert [finding.state for finding in check_packages()] == [NOTE]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"environment": {"CUDA_VISIBLE_DEVICES": "-1"}}, "CUDA_VISIBLE_DEVICES hides them"),
        ({"driver": False}, "there is no NVIDIA driver"),
        ({"built": False}, "built without CUDA"),
        ({"log": "W Cannot dlopen some GPU libraries."}, "pip install 'tensorflow[and-cuda]'"),
        ({}, "nvidia-smi may say more"),
    ],
)
def test_a_missing_gpu_is_explained(facts: dict[str, Any], reason: str) -> None:
    usual: dict[str, Any] = {"built": True, "log": "", "driver": True, "environment": {}}
    assert reason in explain_missing_gpu("tensorflow", **(usual | facts))


def answer_with(
    monkeypatch: pytest.MonkeyPatch, result: subprocess.CompletedProcess[str] | Exception
) -> None:
    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(diagnosis, "find_spec", lambda name: True)
    monkeypatch.setattr(subprocess, "run", run)


def test_every_transfer_syntax_that_is_decoded_has_its_decoder_looked_for() -> None:
    from medkit.images.codestreams import CODECS

    endings = {ending for _, endings in DECODERS.values() for ending in endings}
    assert {f"1.2.840.10008.1.2{ending}" for ending in endings - {".5"}} == set(CODECS)
    found = {finding.topic: finding for finding in check_decoders()}
    assert {finding.state for finding in found.values()} == {OK}
    assert found["JPEG-LS"].detail.startswith("charls")


def test_a_decoder_that_is_missing_is_named_with_its_syntaxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_with(monkeypatch, subprocess.CompletedProcess([], 0, '{"JPEG8": "1"}', ""))
    found = {finding.topic: finding for finding in check_decoders()}
    assert (found["JPEG"].state, found["RLE"].state) == (OK, NOTE)
    assert found["RLE"].detail.endswith("none for 1.2.840.10008.1.2.5")
    answer_with(monkeypatch, subprocess.CompletedProcess([], -11, "", ""))
    assert [finding.state for finding in check_decoders()] == [PROBLEM]


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"keras": "3", "version": "2", "gpus": ["/gpu:0"], "built": True}
    said = f"a line of the library\n{json.dumps(facts)}\n"
    answer_with(monkeypatch, subprocess.CompletedProcess([], 0, said, ""))
    assert [(finding.state, finding.detail) for finding in check_backend("jax")] == [
        (OK, "3, on jax 2"),
        (OK, "/gpu:0"),
    ]


def test_a_gpu_is_found_without_keras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment with PyTorch alone, whose process is a real one."""
    (tmp_path / "torch.py").write_text(
        "class cuda:\n"
        "    device_count = lambda: 1\n"
        "    get_device_name = lambda number: f'Made Up {number}'\n"
        "class version:\n"
        "    cuda = '13'\n"
        "__version__ = '2'\n"
    )
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['keras'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: name != "keras" or None)
    assert [(finding.state, finding.detail) for finding in check_backend("torch")] == [
        (NOTE, "not installed, some trainers need it; torch 2 is"),
        (OK, "Made Up 0"),
    ]
    assert look_for_gpus.__wrapped__("torch") == (["Made Up 0"], "")


@pytest.mark.parametrize(
    ("result", "detail"),
    [
        (subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no"), "ImportError: no"),
        (subprocess.CompletedProcess([], -11, "", ""), "its process ended with -11"),
        (subprocess.CompletedProcess([], 0, "", ""), "does not start"),
        (subprocess.TimeoutExpired("python", 180), "timed out after 180 seconds"),
    ],
)
def test_a_backend_that_does_not_start_is_a_problem(
    result: subprocess.CompletedProcess[str] | Exception,
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_with(monkeypatch, result)
    (finding,) = check_backend("tensorflow")
    assert finding.state == PROBLEM
    assert detail in finding.detail


def test_keras_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.state for finding in check_backend("none")] == [NOTE]
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    (finding,) = check_backend("tensorflow")
    assert (finding.state, finding.detail[:5]) == (NOTE, "Keras")


def test_the_room_of_a_workspace_that_is_not_there_yet_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = check_disk(tmp_path / "not" / "there")
    assert f"GB free in {tmp_path.resolve()}" in finding.detail
    monkeypatch.setattr(diagnosis.os, "access", lambda path, mode: False)
    assert check_disk(tmp_path).state == PROBLEM


def test_credentials_are_named_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text(CANARY)
    finding = check_credentials({"KAGGLE_KEY": CANARY, "OTHER": CANARY}, tmp_path)
    assert finding.detail == "KAGGLE_KEY, ~/.kaggle/kaggle.json"
    assert "none" in check_credentials({}, tmp_path / "nobody").detail


def test_the_scheduler_of_dask_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no scheduler set" in check_dask({}).detail
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        address = f"tcp://127.0.0.1:{scheduler.getsockname()[1]}"
        assert check_dask({"DASK_SCHEDULER_ADDRESS": address}).state == OK
    assert check_dask({"DASK_SCHEDULER_ADDRESS": address}).state == NOTE
    assert check_dask({"DASK_SCHEDULER_ADDRESS": "tcp://["}).state == NOTE
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    assert "not installed" in check_dask({"DASK_SCHEDULER_ADDRESS": address}).detail


def test_the_command_prints_every_line_and_no_secret(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text(f"machine example.org password {CANARY}")
    secrets = {"AWS_SECRET_ACCESS_KEY": CANARY, "KAGGLE_KEY": CANARY, "HOME": str(tmp_path)}
    done = run_cli("doctor", "--json", "-w", tmp_path, **secrets)
    assert done.exit_code == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert {finding["state"] for finding in findings.values()} <= {OK, NOTE}
    assert {"Python", "JPEG 2000", "Keras", "workspace", "credentials", "Dask"} <= findings.keys()
    assert findings["credentials"]["detail"].startswith("AWS_SECRET_ACCESS_KEY, KAGGLE_KEY")


def test_the_command_fails_where_something_essential_is_missing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from medkit import diagnosis\n"
        "from medkit.cli import main\n"
        "problem = diagnosis.Finding('duckdb', 'problem', 'missing; pip install duckdb')\n"
        "diagnosis.diagnose = lambda folder, backend: [problem]\n"
        "main(['doctor', '-w', sys.argv[1]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "pip install duckdb" in done.stdout
