"""Fixtures that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from browser import Seen, open_page
from finished import Finished
from hypothesis import HealthCheck, settings

from medkit.cli import main
from medkit.workspace import Workspace

REPOSITORY = Path(__file__).parent.parent

# The same examples on every run of a change; without CI, new ones each time. Nothing is timed.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, database=None, **UNTIMED)
settings.register_profile("here", **UNTIMED)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Files that take a minute and more, about from the longest: the last one that is begun should be
# short, for until it ends the other processes have nothing to do (make test).
LONG = (
    *("test_kills.py", "test_conformance.py", "test_demo.py", "test_plugin_management.py"),
    *("test_docs_commands.py", "test_export_model.py", "test_scaffolding.py", "test_inception.py"),
    *("test_cnn.py", "test_fitting.py", "test_archive_faults.py", "test_cli_features.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files; the others stay in their order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


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


@pytest.fixture(scope="session")
def call_cli() -> Callable[..., Finished]:
    """Do the same in this process, where libraries are imported already: seconds less a command.

    Folders of ``PYTHONPATH`` are looked in first, as by a new process.
    """

    def call(*arguments: object, PYTHONPATH: str = "", **environment: str) -> Finished:
        words = [str(word) for word in arguments]
        out, errors = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(2))
        folders = [one for one in PYTHONPATH.split(os.pathsep) if one and one not in sys.path]
        known = set(sys.modules)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            patch.setattr(sys, "path", [*folders, *sys.path])
            patch.setattr(sys, "argv", ["medkit", *words])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main(words)
        _forget_modules(set(sys.modules) - known, folders)
        return Finished(int(end.value.code or 0), _read(out), _read(errors))

    return call


def _read(printed: TextIOWrapper) -> str:
    """Return it with the line ends of Python, as `subprocess` does."""
    printed.seek(0)
    return printed.read()


def _forget_modules(names: set[str], folders: list[str]) -> None:
    """Another test has others of these names."""
    for name in names:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(tuple(folders)):
            del sys.modules[name]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path], Seen]:
    """Open a page in a browser; a test that asks for it is skipped where there is none."""
    return lambda page: open_page(page, tmp_path)
