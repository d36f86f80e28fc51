"""What pip installs: the core with its data, and a third party's trainer without touching it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medkit.testing import write_cohort

REPOSITORY = Path(__file__).parent.parent
# Nothing is fetched: hatchling is installed with the tests.
OFFLINE = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_catalogs_and_templates(tmp_path: Path) -> None:
    pip("wheel", *OFFLINE, "--wheel-dir", tmp_path, REPOSITORY)
    (wheel,) = tmp_path.glob("medkit-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, place in (("catalogs", "medkit/catalogs"), ("medkit", "medkit")):
        for pattern in ("*.toml", "*.py", "*.j2", "*.template", "py.typed"):
            for path in (REPOSITORY / folder).rglob(pattern):
                relative = path.relative_to(REPOSITORY / folder).as_posix()
                assert f"{place}/{relative}" in names


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the example trainer into."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", *OFFLINE, "--target", folder, REPOSITORY / "examples" / "medkit-sklearn")
    return folder


def test_a_third_party_trainer_takes_the_whole_road(
    example: Path, tmp_path: Path, run_cli: Callable[..., object], call_cli: Callable[..., object]
) -> None:
    images = write_cohort(tmp_path / "images", persons=18, size=48)

    def medkit(*arguments: object, call: Callable[..., object] = call_cli) -> dict[str, object]:
        done = call(
            *(*arguments, "-w", tmp_path / "workspace", "--json"),
            PYTHONPATH=f"{example}:{REPOSITORY}",
        )
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    listed = medkit_list(run_cli, example)
    assert {"name": "boosting", "distribution": "medkit-sklearn", "version": "0.2.0"}.items() <= (
        listed["boosting"].items()
    )
    medkit("catalog", images)
    medkit("label", "modality", "--tag", "Modality")
    medkit("normalise", "set", "--size", "48")
    train = ("train", "set", "--plugin", "boosting", "--label", "modality", "--folds", "3")
    trained = medkit(*train, "--no-saliency", call=run_cli)
    (run,) = trained["runs"]
    assert run["metrics"]["images"] == 54
    assert run["metrics"]["metrics"]["balanced_accuracy"]["value"] > 0.6
    (report,) = trained["reports"]
    assert "medkit-sklearn" in Path(report).read_text(encoding="utf-8")


def medkit_list(run_cli: Callable[..., object], example: Path) -> dict[str, dict[str, str]]:
    done = run_cli("plugins", "list", "--json", PYTHONPATH=f"{example}:{REPOSITORY}")
    return {entry["name"]: entry for entry in json.loads(done.stdout)["plugins"]}
