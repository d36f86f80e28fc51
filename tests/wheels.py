"""Distributions made up for tests: wheels, and environments to install them into."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finished import Finished

from medkit.plugins.installers import find_python, make_light_environment


def make_wheel(
    folder: Path,
    name: str,
    code: str,
    *,
    version: str = "1.0",
    trainers: Sequence[str] = (),
    group: str = "medkit.trainers.v1",
    needs: Sequence[str] = (),
) -> Path:
    """Write a wheel of one module, whose entry points name it once a trainer."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {one}\n" for one in needs)
    points = "".join(f"{one} = {module}\n" for one in trainers)
    files = {
        f"{module}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Summary: Made up.\n{needed}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[{group}]\n{points}" if trainers else "",
    }
    files[f"{about}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{about}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return wheel


class Host:
    """An environment with medkit, and whatever this one has, beneath what is installed into it."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        make_light_environment(folder)
        self.folder, self.wheels, self.homes = folder, wheels, folder / "homes"
        self.python = find_python(folder)

    def __call__(self, *arguments: object, **variables: str) -> Finished:
        """Run the command line of medkit in it; it finds the wheels, and no index."""
        done = subprocess.run(
            [str(self.python), "-P", "-m", "medkit", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            env=self.variables() | variables,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def variables(self) -> dict[str, str]:
        """Return the variables that its processes start with."""
        places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        places |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.wheels)}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**kept, **places, "MEDKIT_PLUGINS": str(self.homes), "COLUMNS": "200"}

    def list(self, *options: str) -> dict[str, Any]:
        """Return what is listed of the distributions that tests make up, by plugin."""
        import json

        listed = json.loads(self("plugins", "list", "--json", *options).stdout)["plugins"]
        return {one["name"]: one for one in listed if one["distribution"].startswith("fake-")}
