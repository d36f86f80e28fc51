"""Writing the distribution of a new trainer: whole, or not at all."""

from __future__ import annotations

import keyword
import re
from importlib import metadata
from pathlib import Path
from string import Template

from medkit import __version__
from medkit.errors import UsageError
from medkit.plugins import list_plugins
from medkit.scaffolding.frameworks import FRAMEWORKS, Framework
from medkit.workspace import remove_folder

_TEMPLATES = Path(__file__).parent / "templates"
# Of every distribution: its path, and its template.
_SHARED = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "src/$module/py.typed": "py.typed",
    "tests/test_$module.py": "test_plugin.py",
}
# Also a name by PEP 508, already as PEP 503 spells it; the module is of PEP 8 form.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 32  # a line of code that holds it stays short


def write_distribution(name: str, framework: str, into: Path) -> Path:
    """Write a small, complete, tested distribution of a trainer.

    Parameters
    ----------
    name : str
        Of the trainer, as ``--plugin`` takes it: lower-case letters, digits and single hyphens.
        The distribution is ``medkit-NAME``, the module ``medkit_NAME``.
    framework : str
        One of `FRAMEWORKS`.
    into : Path
        The folder in which ``medkit-NAME`` is made; it is made too if it is missing.

    Returns
    -------
    Path
        The distribution's folder.

    Raises
    ------
    UsageError
        If the name is not one, or is taken by what is installed; if there is no such framework; if
        the folder is there already.
    """
    check_name(name)
    if framework not in FRAMEWORKS:
        raise UsageError(
            f"there is no framework {framework!r} to begin with; give one of "
            f"{', '.join(sorted(FRAMEWORKS))}"
        )
    folder = into / f"medkit-{name}"
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is there already, and is left as it is; choose another name")
    beside = folder.with_name(f".{folder.name}.part")
    remove_folder(beside)  # of a call that was killed
    _write_files(beside, name, FRAMEWORKS[framework])
    beside.rename(folder)
    return folder


def check_name(name: str) -> None:
    """Raise a UsageError that says what would work if a new trainer cannot have a name."""
    fitting = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("medkit-")
    advice = f", such as {fitting!r}" if _NAME.fullmatch(fitting[:_LONGEST]) else ""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} is no name for a trainer: give a letter, then letters, digits and single "
            f"hyphens, in lower case, {_LONGEST} at most{advice if fitting != name else ''}"
        )
    if name.startswith("medkit-"):
        raise UsageError(
            f"{name!r} would become the distribution 'medkit-{name}'; give the trainer's own "
            f"name{advice}"
        )
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of Python's; give another, such as '{name}-net'")
    _check_free(name)


def _check_free(name: str) -> None:
    for entry in list_plugins("trainer"):
        if entry.name == name:
            raise UsageError(
                f"{name!r} is the trainer of {entry.distribution} {entry.version}, which is "
                "installed; give another name"
            )
    try:
        version = metadata.version(f"medkit-{name}")
    except metadata.PackageNotFoundError:
        return
    raise UsageError(f"medkit-{name} {version} is installed; give another name")


def _write_files(folder: Path, name: str, framework: Framework) -> None:
    values = _describe(name, framework)
    for path, template in _list_files(framework).items():
        target = folder / Template(path).substitute(values)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")
        target.write_text(Template(text).substitute(values), encoding="utf-8", newline="\n")


def _list_files(framework: Framework) -> dict[str, str]:
    own = {f"src/$module/{file}": f"{kind}/{file}" for file, (kind, _) in framework.sources.items()}
    return {path: f"shared/{template}" for path, template in _SHARED.items()} | own


def _describe(name: str, framework: Framework) -> dict[str, str]:
    major, minor = __version__.split(".")[:2]
    medkit = f"medkit>={major}.{minor},<{major}.{int(minor) + 1}"
    required = sorted((medkit, "numpy>=2.0", *framework.requirements))
    return {
        "name": name,
        "distribution": f"medkit-{name}",
        "module": f"medkit_{name.replace('-', '_')}",
        "title": framework.title,
        "summary": framework.summary,
        "requirements": "\n".join(f'  "{each}",' for each in required),
        "untyped": ", ".join(f'"{each}"' for each in framework.untyped),
        "quick": "\n".join(f'        "{key}": "{text}",' for key, text in framework.quick.items()),
        "begin": framework.begin,
        "files": "".join(
            f"| `{file}` | {what} |\n" for file, (_, what) in framework.sources.items()
        ),
    }
