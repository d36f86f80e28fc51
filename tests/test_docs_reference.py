"""The reference says what the code does: commands, options, variables, and the Python surface."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docpages import REPOSITORY, list_options, list_pages, name_page

sys.path.insert(0, str(REPOSITORY / "website"))
griffe = pytest.importorskip("griffe", reason="needs the extra 'docs'")

PYTHON = REPOSITORY / "docs" / "reference" / "python.md"
# Options of other programs, which pages name too.
FOREIGN = {"--editable", "--logdir", "--no-index", "--find-links", "--system-site-packages"}

# What medkit tells its own child processes.
INTERNAL = {"MEDKIT_TRIAL"}


def walk() -> Iterator[tuple[str, Any]]:
    from commands import list_commands

    yield from list_commands()


def test_every_verb_has_one_home() -> None:
    from commands import VERBS, find_homes

    homes = find_homes(VERBS.read_text(encoding="utf-8"))
    verbs = {path for path, _ in walk() if " " not in path}
    assert set(homes) == verbs
    for verb, page in homes.items():
        text = (VERBS.parent / page.partition("#")[0]).read_text(encoding="utf-8")
        assert re.search(rf"medkit {verb}\b|`{verb}`", text), f"{page} never says {verb}"


def test_the_reference_has_every_command_and_option() -> None:
    from commands import write_commands

    sections = re.split(r"^##+ medkit ", write_commands(), flags=re.MULTILINE)
    by_path = {section.partition("\n")[0]: section for section in sections}
    for path, command in walk():
        for option in list_options(command) - {"-h", "--help"}:
            assert f"`{option}`" in by_path[path], f"medkit {path} {option}"


@pytest.mark.parametrize("page", list_pages(), ids=name_page)
def test_options_that_a_page_names_exist(page: Path) -> None:
    from typer.main import get_command

    from medkit.cli import app

    known = {option for _, command in walk() for option in list_options(command)}
    known |= list_options(get_command(app)) | FOREIGN
    if name_page(page) == "docs/benchmarks.md":
        known |= {"--files", "--million"}  # of scripts in benchmarks/
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    quoted = " ".join(re.findall(r"`(-[^`]*)`", text))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", quoted))
    assert named <= known, name_page(page)


def test_every_variable_is_described_and_every_described_one_is_read() -> None:
    page = (REPOSITORY / "docs" / "reference" / "variables.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(MEDKIT_\w+)`", page, re.MULTILINE))
    sources = (path.read_text(encoding="utf-8") for path in REPOSITORY.glob("medkit/**/*.py"))
    read = {name for text in sources for name in re.findall(r"\"(MEDKIT_[A-Z_]+)\"", text)}
    assert described == read - INTERNAL


def test_every_public_name_of_the_package_is_described() -> None:
    import medkit

    described = set(list_described())
    for name, home in medkit._HOMES.items():
        assert {f"{home}.{name}", home} & described, name


def list_described() -> list[str]:
    return re.findall(r"^::: (\S+)", PYTHON.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def package() -> Any:
    loader = griffe.GriffeLoader(docstring_parser="numpy", search_paths=[str(REPOSITORY)])
    return loader.load("medkit", submodules=True)


@pytest.mark.parametrize("path", list_described())
def test_public_docstrings_name_every_parameter(path: str, package: Any) -> None:
    found = package[path.removeprefix("medkit.")]
    missing = [
        f"{function.path}({parameter})"
        for function in list_functions(found)
        for parameter in list_undescribed(function)
    ]
    assert missing == []


def list_functions(found: Any) -> Iterator[Any]:
    """Yield the public functions of a module, a class, or both."""
    if found.is_function:
        yield found
        return
    for name, member in found.members.items():
        if not name.startswith("_") and not member.is_alias and not member.is_attribute:
            yield from list_functions(member)


def list_undescribed(function: Any) -> list[str]:
    """Return the parameters of a function that its docstring does not speak of.

    A single argument is what the first sentence is about; of several, a sentence may name some.
    """
    names = [one.name for one in function.parameters if one.name not in {"self", "cls"}]
    assert function.docstring is not None or not names, f"{function.path} has no docstring"
    text = function.docstring.value if function.docstring else ""
    told = {
        name.strip("* ")
        for section in (function.docstring.parsed if function.docstring else [])
        if section.kind.value == "parameters"
        for one in section.value
        for name in one.name.split(",")
    }
    sentence = text.partition("Parameters\n")[0].lower()
    if len(names) == 1:
        return []
    return [name for name in names if name not in told and name.lower() not in sentence]
