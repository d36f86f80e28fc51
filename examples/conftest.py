"""For the tests of every example: it counts as installed, here and in processes started here."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Lay beside an example's source what pip would write of it; return the ``PYTHONPATH``."""
    root = request.path.parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    _describe(site, project)
    found = [str(site), str(root / "src")]
    with pytest.MonkeyPatch.context() as patch:
        for folder in reversed(found):
            patch.syspath_prepend(folder)
        others = [each for each in [os.environ.get("PYTHONPATH")] if each]
        patch.setenv("PYTHONPATH", os.pathsep.join([*found, *others]))
        yield os.environ["PYTHONPATH"]


def _describe(site: Path, project: dict[str, object]) -> None:
    name, version = project["name"], project["version"]
    about = site / f"{str(name).replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = project["entry-points"]
    assert isinstance(groups, dict)
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in groups.items()
    ]
    (about / "entry_points.txt").write_text("".join(lines))
