"""The tools that install distributions: pip, uv and pipx; which of them an environment is of.

What they print is kept from the terminal, and shown where they fail.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from medkit.errors import PluginError, UsageError
from medkit.plugins.homes import canonical, find_python

_UV_CHANGE = re.compile(r"^ \+ (?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s(]+)", re.MULTILINE)
_NOISE = re.compile(r"^(WARNING|\[notice\]|Using |Resolved |Prepared |hint: |\s*$)")
_LINES = 14  # of what a tool says when it fails


@dataclass(frozen=True)
class Tool:
    """What installs into an environment.

    Attributes
    ----------
    name : str
        For the user: ``"pip"``, ``"uv"``, ``"pipx"`` or ``"uv tool"``.
    command : tuple of str
        The beginning of every command line: of pip, or of ``uv pip``.
    python : str
        The interpreter of the environment.
    pipx : str
        The command of pipx, which has to know of what is added; mostly empty.
    note : str
        What the user should know; mostly empty.
    """

    name: str
    command: tuple[str, ...]
    python: str
    pipx: str = ""
    note: str = ""

    @property
    def is_uv(self) -> bool:
        """Whether command lines are read by uv."""
        return self.command[-1:] == ("pip",) and self.command[0] != sys.executable

    def resolve(self, arguments: Sequence[str]) -> dict[str, str]:
        """Return the versions that an install would bring, by name; nothing is installed.

        Raises
        ------
        PluginError
            If there are none that fit; the message is the tool's.
        """
        if self.is_uv:
            said = self._run("install", "--dry-run", *arguments)
            return {canonical(one["name"]): one["version"] for one in _UV_CHANGE.finditer(said)}
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            self._run("install", "--dry-run", "--report", str(report), *arguments)
            found = [one["metadata"] for one in json.loads(report.read_bytes())["install"]]
        return {canonical(one["name"]): one["version"] for one in found}

    def install(self, arguments: Sequence[str], wanted: Sequence[str]) -> str:
        """Install what is wanted, and return what the user should know, mostly nothing.

        The arguments are constraints, and where to look.
        """
        injected, note = self._inject(arguments, wanted)
        if not injected:
            self._run("install", *arguments, *wanted)
        return note

    def _inject(self, arguments: Sequence[str], wanted: Sequence[str]) -> tuple[bool, str]:
        """Have pipx install, so that it knows of it; return whether it did, and what to tell."""
        if not self.pipx:
            return False, self.note
        editable = ("--editable",) if wanted[0] == "-e" else ()
        command = [self.pipx, "inject", f"--pip-args={shlex.join(arguments)}", *editable]
        try:
            said = _call([*command, Path(sys.prefix).name, wanted[-1]])
        except PluginError as error:
            return False, f"pipx does not know of it, and 'pipx reinstall' drops it: {error}"
        # It leaves alone what is there, also if an upgrade is wanted.
        return "already seems to be installed" not in said, ""

    def install_aside(self, folder: Path, arguments: Sequence[str], wanted: str) -> None:
        """Install one distribution, without what it needs, into a folder, to look at it."""
        self._run("install", "--no-deps", "--target", str(folder), *arguments, wanted)

    def uninstall(self, distribution: str) -> None:
        """Uninstall a distribution; what it needed stays."""
        if self.pipx:
            with suppress(PluginError):  # it may not have been injected
                _call([self.pipx, "uninject", "--leave-deps", Path(sys.prefix).name, distribution])
                return
        self._run("uninstall", *(() if self.is_uv else ("--yes",)), distribution)

    def _run(self, verb: str, *arguments: str) -> str:
        if self.is_uv:
            return _call([*self.command, verb, "--python", self.python, *arguments])
        other = () if self.python == sys.executable else ("--python", self.python)
        return _call([*self.command, *other, verb, *arguments])


def find_tool() -> Tool:
    """Return what installs into this environment.

    Raises
    ------
    PluginError
        If nothing can, or the environment belongs to the system.
    """
    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix and _is_managed():
        raise PluginError(
            "this Python belongs to the system, which forbids installing into it (PEP 668); "
            "install medkit with pipx or uv tool, or in a virtual environment"
        )
    if (prefix / "pipx_metadata.json").exists():
        return _find_pipx()
    if (prefix / "uv-receipt.toml").exists():
        note = "'uv tool upgrade medkit' drops plugins; 'medkit plugins sync' brings them back"
        return Tool("uv tool", _need_uv(), sys.executable, note=note)
    if _is_made_by_uv(prefix) and (uv := find_uv()):
        return Tool("uv", (*uv, "pip"), sys.executable)
    return Tool(*_choose_command(), sys.executable)


def make_environment(folder: Path) -> Tool:
    """Make a virtual environment in a folder, and return what installs into it."""
    if uv := find_uv():
        _call([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        return Tool("uv", (*uv, "pip"), str(find_python(folder)))
    _call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    return Tool("pip", _pip(), str(find_python(folder)))


def make_light_environment(folder: Path) -> Tool:
    """Make a virtual environment that has this one's libraries beneath its own.

    pip finds what lies beneath, and installs nothing again; uv does not look there.
    """
    _call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    beneath = "".join(f"import site; site.addsitedir({path!r})\n" for path in library_folders())
    (find_library(folder) / "medkit-host.pth").write_text(beneath)
    return Tool("pip", _pip(), str(find_python(folder)))


def library_folders() -> list[str]:
    """Return where this environment has its distributions, as on ``sys.path``."""
    return [path for path in sys.path if path and any(Path(path).glob("*.dist-info"))]


def find_library(folder: Path) -> Path:
    """Return where a virtual environment has its distributions."""
    base = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", base))


def find_uv() -> tuple[str, ...]:
    """Return the command of uv; empty where it is not installed."""
    beside = Path(sys.executable).with_name("uv.exe" if os.name == "nt" else "uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    return (found,) if found else ()


def _find_pipx() -> Tool:
    pipx = shutil.which("pipx")
    _, command = _choose_command()
    if pipx:
        return Tool("pipx", command, sys.executable, pipx)
    note = "pipx is not found, and does not know of the plugin: 'pipx reinstall' drops it"
    return Tool("pipx", command, sys.executable, note=note)


def _choose_command() -> tuple[str, tuple[str, ...]]:
    """Return pip, or uv where there is no pip."""
    if find_spec("pip"):
        return "pip", _pip()
    return "uv", _need_uv()


def _need_uv() -> tuple[str, ...]:
    if uv := find_uv():
        return (*uv, "pip")
    raise PluginError(
        "there is neither pip in this environment nor uv; 'python -m ensurepip' gives pip"
    )


def _pip() -> tuple[str, ...]:
    if find_spec("pip") is None:
        raise PluginError("pip is not in this environment; 'python -m ensurepip' gives it")
    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def _is_made_by_uv(prefix: Path) -> bool:
    try:
        lines = (prefix / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)


def _is_managed() -> bool:
    return (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists()


def _call(command: Sequence[str]) -> str:
    """Run a tool, and return what it said; raise PluginError if it failed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"NO_COLOR": "1"},
        )
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be started: {error}") from None
    if done.returncode:
        raise PluginError(_tell_failure(done.stdout) or f"it ended with {done.returncode}")
    return done.stdout


def _tell_failure(said: str) -> str:
    """Return the lines that say why a tool failed, as one text."""
    lines = [line.strip() for line in said.splitlines() if not _NOISE.match(line)]
    start = [number for number, line in enumerate(lines) if line.startswith(_WHY)]
    lines = lines[start[0] :] if start else lines
    end = [number for number, line in enumerate(lines) if line.startswith("To fix this")]
    return " ".join((lines[: end[0]] if end else lines)[:_LINES])


_WHY = ("ERROR: Cannot install", "The conflict is caused", "×", "error:", "ERROR:")
