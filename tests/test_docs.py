"""What the documents promise."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from docpages import list_pages, name_page

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def expand_makefile(target: str) -> str:
    """Return the pip command that make runs before a target, without make's own options."""
    command = ["make", "-n", "-B", target, "VENV=.venv", "PYTHON=python3"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "pip install" in line]
    return lines[0].replace(" -q", "")


@pytest.mark.skipif(sys.platform == "win32", reason="make is not there")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_readme_spells_out_what_make_runs(target: str) -> None:
    assert expand_makefile(target).strip() in README


def test_windows_has_the_same_commands() -> None:
    installs = re.findall(r"(\S+python) (-m pip install .*)", README)
    unix = {rest for python, rest in installs if "/" in python}
    windows = {rest for python, rest in installs if "\\" in python}
    assert windows
    assert windows <= unix


@pytest.mark.parametrize("page", [REPOSITORY / "CHANGELOG.md", *list_pages()], ids=name_page)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_verb_of_the_readme_exists() -> None:
    from medkit.cli import app

    verbs = {info.name or info.callback.__name__ for info in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    named = set(re.findall(r"^    medkit (\w+)", README, re.MULTILINE))
    assert named
    assert named <= verbs


def indented_blocks(text: str) -> list[str]:
    return [
        textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)
    ]


def test_the_trainer_of_contributing_is_a_trainer(tmp_path: Path) -> None:
    blocks = indented_blocks(CONTRIBUTING)
    (code,) = [block for block in blocks if "class MeanTrainer" in block]
    (project,) = [block for block in blocks if "[project.entry-points" in block]
    value = re.search(r'^mean = "(\w+)"', project, re.MULTILINE)
    assert value
    (tmp_path / f"{value[1]}.py").write_text(code)
    about = tmp_path / "medkit_mean-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: medkit-mean\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text(f"[medkit.trainers.v1]\nmean = {value[1]}\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from medkit.plugins import load_trainer\n"
        "trainer = load_trainer('mean')\n"
        "assert trainer(trainer.Params()).feature_spec() == {'size': 16}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
