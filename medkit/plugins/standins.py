"""What stands in this process for a trainer that is isolated in another environment.

A stand-in has the trainer's options, tasks and head, asked of its environment once and kept there
beside it. It is never fitted: that is done by a child process of that environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import Any

from medkit.errors import PluginError
from medkit.plugins.entries import Plugin
from medkit.plugins.homes import Home
from medkit.plugins.introduction import restore_type

_ANSWERS = "answers"
# Seconds that a plugin has to be imported and to answer.
PATIENCE = 300.0


def stand_in(entry: Plugin, home: Home) -> type[Any]:
    """Return a class with the face of a trainer that the host needs before a fit.

    Raises
    ------
    PluginError
        If the environment was made for another version of medkit, or the plugin does not load.
    """
    check_version(entry, home)
    said = ask(entry, home)
    params = _make_params(entry, home, said["fields"])

    class Isolated:
        """An isolated trainer: its options, tasks and head."""

        Params = params
        tasks = frozenset(said["tasks"])
        head = said["head"]

        def __init__(self, chosen: Any) -> None:
            answer = ask(entry, home, asdict(chosen))
            self.params = chosen
            self.tasks, self.head = frozenset(answer["tasks"]), answer["head"]

    return Isolated


def check_version(entry: Plugin, home: Home) -> None:
    """Raise PluginError if an environment has another medkit than this one."""
    from medkit import __version__

    if home.medkit != __version__:
        raise PluginError(
            f"{entry.name!r} ({entry.origin}) is in an environment with medkit {home.medkit}, and "
            f"this is {__version__}; 'medkit plugins upgrade {entry.distribution}' makes it anew"
        )


def ask(entry: Plugin, home: Home, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what an isolated trainer says of itself, or of options; a child process is asked.

    The answer is kept in the environment, unless the plugin's code can change there.

    Raises
    ------
    PluginError
        If it does not load.
    """
    asked = () if params is None else (json.dumps(params, sort_keys=True),)
    question = json.dumps([entry.kind, entry.name, entry.version, *asked])
    name = hashlib.sha256(question.encode()).hexdigest()[:24]
    kept = Path(home.folder) / _ANSWERS / f"{name}.json"
    if not home.editable and (answer := _read_answer(kept)) is not None:
        return answer
    answer = introduce(entry, home.python, asked)
    if "error" in answer:
        raise PluginError(answer["error"])
    if not home.editable:
        _keep_answer(kept, answer)
    return answer


def introduce(
    entry: Plugin, python: str = sys.executable, asked: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Have a child process import a plugin, and return its answer; ``error`` if it does not.

    See `medkit.plugins.introduction`.
    """
    command = [python, "-P", "-m", "medkit.plugins.introduction", entry.kind, entry.name, *asked]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            env=make_variables(entry.home),
            stdin=subprocess.DEVNULL,
        )
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"{entry.name!r} ({entry.origin}) was not loaded in {PATIENCE:.0f} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"error": f"{entry.name!r} ({entry.origin}) does not load: {_last_words(error)}"}
    return said


def make_variables(home: Home | None) -> dict[str, str]:
    """Return the variables with which a child finds its plugins, and nothing else.

    In this environment those that this process found; an isolated one has its own path. With
    ``-P`` nothing is found in the folder one stands in: it may hold raw data, and a file there
    named like a module.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    if home is not None:
        del_path = {"PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
        return {name: value for name, value in variables.items() if name not in del_path}
    path = os.pathsep.join(one or os.getcwd() for one in sys.path)  # noqa: PTH109
    return {**variables, "PYTHONPATH": path}


def _last_words(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else "its process said nothing"


def _make_params(entry: Plugin, home: Home, said: list[dict[str, Any]]) -> type[Any]:
    """Return a dataclass with the options of the trainer; its environment checks the values."""

    def check(self: Any) -> None:
        answer = ask(entry, home, asdict(self))
        if "refused" in answer:
            raise ValueError(answer["refused"])

    made = []
    for one in said:
        default = {"default": _freeze(one["default"])} if "default" in one else {}
        made.append(
            (one["name"], restore_type(one["type"]), field(metadata=one["said"], **default))
        )
    return make_dataclass("Params", made, frozen=True, namespace={"__post_init__": check})


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read_answer(path: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return answer


def _keep_answer(path: Path, answer: Mapping[str, Any]) -> None:
    """Keep an answer whole or not at all; an environment that cannot be written to keeps none."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        beside.write_bytes(json.dumps(answer).encode())
        beside.replace(path)
    except OSError:
        return
