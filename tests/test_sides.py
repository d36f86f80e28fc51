"""Images are mirrored only where left and right mean nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from medkit.errors import UsageError
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch
from medkit.sources.local import plan
from medkit.training.sides import check_mirroring
from medkit.workspace import Workspace


@dataclass(frozen=True)
class Options:
    mirror: bool = True


def fetch_source(workspace: Workspace, folder: Path, name: str, sides: str) -> None:
    path = folder / name
    path.mkdir()
    described = Descriptor(name, name, "1", "CC0", "local", path=str(path), sides=sides)
    fetch(plan(described), workspace)


@pytest.fixture
def images_of(workspace: Workspace, tmp_path: Path) -> Any:
    fetch_source(workspace, tmp_path, "hearts", "matter")
    fetch_source(workspace, tmp_path, "cells", "free")
    fetch_source(workspace, tmp_path, "films", "")
    return lambda *names: SimpleNamespace(table=pd.DataFrame({"source": names}))


def test_where_sides_matter_mirroring_is_refused(images_of: Any, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="mirror=True: the descriptor of hearts says that sides"):
        check_mirroring(Options(), images_of("cells", "hearts", "films"), workspace)


def test_where_they_do_not_it_is_not(images_of: Any, workspace: Workspace) -> None:
    assert check_mirroring(Options(), images_of("cells", "cells"), workspace) == []


def test_where_nobody_says_there_is_a_warning(images_of: Any, workspace: Workspace) -> None:
    (warning,) = check_mirroring(Options(), images_of("films", "cells", "local"), workspace)
    assert warning.startswith("images of films, local were mirrored")


@pytest.mark.parametrize("options", [Options(mirror=False), object()], ids=["off", "without"])
def test_without_mirroring_nothing_is_asked(
    options: Any, images_of: Any, workspace: Workspace
) -> None:
    assert check_mirroring(options, images_of("hearts", "films"), workspace) == []
