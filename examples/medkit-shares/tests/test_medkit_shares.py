"""A plugin of sources: known when it is named, and fetched like any other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from medkit.errors import PluginError, SourceError, UsageError
from medkit.sources.fetching import fetch
from medkit.sources.targets import list_known, plan_target
from medkit.workspace import Workspace

ROOT = Path(__file__).parent.parent
FILES = {"a.dcm": b"one" * 100, "deep/b.dcm": b"two" * 200}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of modules with what tells Python of the plugin, as pip would write it."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ((group, named),) = points.items()
    about = tmp_path / "site" / "medkit_shares-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: medkit-shares\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {module}\n" for name, module in named.items())
    (about / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    monkeypatch.syspath_prepend(ROOT / "src")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "share" / "phantoms"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items())
    (folder / "SHA256SUMS").write_text("".join(sums))
    monkeypatch.setenv("SHARE", str(folder.parent))
    return folder


def test_its_sources_are_known_when_it_is_named(site: Path) -> None:
    assert "shared-phantoms" not in {one.name for one in list_known().descriptors}
    named = list_known(plugin="shares")
    assert "shared-phantoms" in {one.name for one in named.descriptors}
    assert named.problems == ()
    assert [one.name for one in list_known("department", "shares").descriptors] == [
        "shared-phantoms"
    ]


def test_it_is_fetched_and_compared(site: Path, share: Path, tmp_path: Path) -> None:
    home = Workspace(tmp_path / "workspace")
    done = fetch(plan_target("shared-phantoms", plugin="shares"), home)
    assert {name: (done.source.folder / name).read_bytes() for name in FILES} == FILES
    assert done.references == {"sha256": 2}
    assert fetch(plan_target("shared-phantoms", plugin="shares"), home).status == "already there"
    (share / "a.dcm").write_bytes(b"x" * 300)
    with pytest.raises(SourceError, match=r"a\.dcm"):
        fetch(plan_target("shared-phantoms", plugin="shares", name="second"), home)


def test_a_plugin_that_is_not_there_or_gives_something_else_is_named(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no source plugin is named 'other'; installed: shares"):
        plan_target("shared-phantoms", plugin="other")
    about = next(site.glob("*.dist-info"))
    (about / "entry_points.txt").write_text("[medkit.sources.v1]\nshares = wrong_sources\n")
    (site / "wrong_sources.py").write_text(
        "import medkit\n\n@medkit.hookimpl\ndef medkit_sources():\n    return 3\n"
    )
    with pytest.raises(PluginError, match="adds no sources: it gave 3"):
        plan_target("shared-phantoms", plugin="shares")


def test_listing_without_it_imports_nothing_of_it(site: Path) -> None:
    script = (
        "import sys\nfrom medkit.sources.targets import list_known\nlist_known()\n"
        "assert 'medkit_shares' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
