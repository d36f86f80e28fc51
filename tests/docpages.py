"""The pages of the documentation, and the commands and code that stand on them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
# design.md has a list of verbs in place of commands.
_NO_COMMANDS = {"docs/design.md"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)
_QUOTED = re.compile(r"`((?:[A-Z_]+=\S+ )?medkit [^`]+)`")
_PLACEHOLDER = re.compile(r"\bVERB\b|(?<= )\.\.\.")
_SHELL = {"", "sh", "bash", "console"}


@dataclass(frozen=True)
class Command:
    """A command line as a page has it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words after ``medkit``."""
        return self.split()[1]

    @property
    def variables(self) -> dict[str, str]:
        """What stands before ``medkit``: ``NAME=value``."""
        return dict(word.split("=", 1) for word in self.split()[0])

    def split(self) -> tuple[list[str], list[str]]:
        words = shlex.split(self.text, comments=True)
        start = words.index("medkit")
        return words[:start], words[start + 1 :]


def list_pages() -> list[Path]:
    """Return the pages that a user reads: README, CONTRIBUTING, SECURITY, docs/, and those of
    plugins, examples and descriptors.
    """
    patterns = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "catalogs/*.md")
    patterns += ("plugins/*/README.md", "examples/*/README.md")
    return [page for pattern in patterns for page in sorted(REPOSITORY.glob(pattern))]


def name_page(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def list_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of every block of code, in the order of the page."""
    found = [(match.start(), match[1], match[2]) for match in _FENCE.finditer(text)]
    bare = _FENCE.sub(lambda match: " " * len(match[0]), text)
    found += [(match.start(), "", textwrap.dedent(match[0])) for match in _INDENTED.finditer(bare)]
    for _, language, block in sorted(found):
        yield language, block


def list_commands(page: Path) -> list[Command]:
    """Return the commands of a page's blocks; one may go over several lines."""
    name = name_page(page)
    if name in _NO_COMMANDS:
        return []
    lines = [
        line
        for language, block in list_blocks(page.read_text(encoding="utf-8"))
        if language in _SHELL
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines = [line.removeprefix("$ ").strip() for line in lines]
    return [Command(name, line) for line in lines if re.match(r"([A-Z_]+=\S+ )*medkit ", line)]


def list_mentions(page: Path) -> list[Command]:
    """Return the commands that a page has within its sentences."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    quoted = _QUOTED.findall(prose)
    return [Command(name_page(page), one) for one in quoted if not _PLACEHOLDER.search(one)]


def list_python(page: Path) -> list[str]:
    """Return the blocks of Python: those that say so, and indented ones that import something."""
    blocks = list_blocks(page.read_text(encoding="utf-8"))
    return [
        block
        for language, block in blocks
        if language == "python" or (not language and re.search(r"^(import|from) \w", block, re.M))
    ]


def find_command(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """Return the command that words name, its path, and the words after it.

    Raises
    ------
    LookupError
        If there is no such command.
    """
    import typer

    from medkit.cli import app

    found, path, rest = typer.main.get_command(app), [], list(words)
    while hasattr(found, "commands"):
        while rest and rest[0].startswith("-"):
            rest.pop(0)  # options of medkit itself
        if not rest:
            break
        if rest[0] not in found.commands:
            raise LookupError(f"medkit {' '.join(path)} has no command {rest[0]!r}")
        path.append(rest.pop(0))
        found = found.commands[path[-1]]
    return found, path, rest


def list_options(command: Any) -> set[str]:
    """Return what a command takes for options, ``--help`` among them."""
    own = {name for one in command.params for name in [*one.opts, *one.secondary_opts]}
    return {name for name in own if name.startswith("-")} | {"-h", "--help"}
