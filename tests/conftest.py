"""Fixtures that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Seen, open_page
from finished import Finished
from hypothesis import HealthCheck, settings

from medkit.workspace import Workspace

REPOSITORY = Path(__file__).parent.parent

# The same examples on every run of a change; without CI, new ones each time. Nothing is timed.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, database=None, **UNTIMED)
settings.register_profile("here", **UNTIMED)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    """The real DICOM files that pydicom ships."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """More real images than a package can ship; tests that need them are skipped without."""
    folder = Path(os.environ.get("MEDKIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set MEDKIT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., Finished]:
    """Run the command line in a process of its own."""

    def run(*arguments: object, timeout: float = 300, **environment: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "medkit", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path], Seen]:
    """Open a page in a browser; a test that asks for it is skipped where there is none."""
    return lambda page: open_page(page, tmp_path)
