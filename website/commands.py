"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

_WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: ""}
VERBS = Path(__file__).resolve().parent.parent / "docs" / "verbs.md"


def write_commands() -> str:
    """Return the sections of the page, one a command."""
    homes = find_homes(VERBS.read_text(encoding="utf-8"))
    return "\n".join(_describe(path, command, homes) for path, command in list_commands())


def list_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that is not hidden, such as ``audit leaks``, groups before theirs."""
    import typer

    from medkit.cli import app

    yield from _walk("", typer.main.get_command(app))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if path:
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _walk(f"{path} {name}".strip(), inner)


def find_homes(text: str) -> dict[str, str]:
    """Return the page of each verb, as the table of verbs has it."""
    rows = re.findall(r"^\| `medkit ([^`]+)` \| \[[^\]]+\]\(([^)]+)\)", text, re.MULTILINE)
    return dict(rows)


def _describe(path: str, command: Any, homes: dict[str, str]) -> str:
    page = homes.get(path) or homes.get(path.partition(" ")[0], "verbs.md")
    lines = [f"{'#' * (2 + path.count(' '))} medkit {path}", "", _join(command.help or "")]
    if not hasattr(command, "commands"):
        shown = [parameter for parameter in command.params if not parameter.hidden]
        arguments = [_sign(one) for one in shown if one.param_type_name == "argument"]
        lines += ["", f"    medkit {' '.join([path, '[OPTIONS]', *arguments])}", ""]
        lines += [*_tabulate(command.callback, [one for one in shown if one.name != "help"]), ""]
        lines += [f"How to: [{page.partition('#')[0]}](../{page})."]
    return "\n".join([*lines, ""])


def _tabulate(callback: Any, parameters: list[Any]) -> Iterator[str]:
    if parameters:
        yield from ("| | | if not given |", "|---|---|---|")
    kinds = get_type_hints(callback)
    for one in parameters:
        told = " ".join((getattr(one, "help", None) or "").split())
        told = re.sub(r"([|*_<])", r"\\\1", told)
        variable = f" Or the variable `{one.envvar}`." if one.envvar else ""
        needed = "needed" if one.required else _tell_default(one)
        yield f"| {_name(one, kinds[one.name])} | {told}{variable} | {needed} |"


def _name(one: Any, kind: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{_sign(one)}`"
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    value = "" if one.is_flag else one.metavar or _name_value(kind)
    return " ".join([names, f"`{value}`" if value else ""]).strip().replace("|", "\\|")


def _name_value(kind: Any) -> str:
    """Return what stands for a value, by its type: the choices of an enumeration, or a word."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    if inner:
        return _name_value(inner[0])
    if issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return _WORDS[kind]


def _sign(one: Any) -> str:
    name = one.metavar or one.name.upper()
    many = "..." if one.nargs == -1 else ""
    return f"{name}{many}" if one.required else f"[{name}]{many}"


def _tell_default(one: Any) -> str:
    value = one.default
    value = getattr(value, "value", value)
    if callable(value) or value is None or value is False or value in ("", [], ()):
        return ""
    return "here" if value == Path() else f"`{value}`"


def _join(text: str) -> str:
    """Return a docstring with its paragraphs, each in one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
