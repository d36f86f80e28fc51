"""Making and removing the environments of isolated plugins.

An environment is made under a name that nobody has used, and its marker is written last: whoever
looks sees it whole or not at all, and a kill leaves what the next install removes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import secrets
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.errors import PluginError
from medkit.plugins.candidates import CORE, Candidate, Wanted
from medkit.plugins.homes import (
    MARKER,
    Home,
    canonical,
    describe_home,
    list_homes,
    list_remains,
    root_folder,
)
from medkit.plugins.installers import (
    Tool,
    find_library,
    library_folders,
    make_environment,
    make_light_environment,
)
from medkit.workspace import remove_folder, write_json

_LOCK = ".lock"
# Of a distribution that is installed, what its wheel did not have.
_ADDED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


def build_home(
    wanted: Wanted, candidate: Candidate, arguments: Sequence[str], light: bool
) -> tuple[Home, str]:
    """Make an environment for a plugin, in place of an earlier one of the same distribution.

    Parameters
    ----------
    wanted : Wanted
        What is installed into it, beside medkit, in one resolution.
    candidate : Candidate
        What that is.
    arguments : sequence of str
        For pip or uv: constraints, and where to look.
    light : bool
        Whether this environment's libraries lie beneath it, instead of being installed again.

    Returns
    -------
    tuple
        The environment, and the name of the tool that made it.

    Raises
    ------
    PluginError
        If the plugin and medkit do not fit together; nothing is left of it.
    """
    folder = root_folder() / f"{canonical(candidate.distribution)}-{secrets.token_hex(4)}"
    with _alone():
        for remains in list_remains():
            remove_folder(remains)
        try:
            tool = make_light_environment(folder) if light else make_environment(folder)
            _fill(tool, wanted, candidate, arguments, light)
        except BaseException:  # also Ctrl-C
            if folder.exists():
                remove_folder(folder)
            raise
        home = _describe(folder, wanted, candidate, light)
        write_json(folder / MARKER, describe_home(home))
        for remains in list_remains():
            remove_folder(remains)
    return home, tool.name


def remove_home(home: Home) -> None:
    """Remove an environment: its marker first, so that nobody finds half of it."""
    with _alone():
        (Path(home.folder) / MARKER).unlink(missing_ok=True)
        remove_folder(Path(home.folder))


def list_pins(home: Home) -> list[str]:
    """Return the exact versions of what an environment has of its own, without medkit."""
    own = metadata.distributions(path=list(home.paths[:1]))
    found = {canonical(one.metadata["Name"]): one.version for one in own}
    found.pop(CORE, None)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _fill(
    tool: Tool, wanted: Wanted, candidate: Candidate, arguments: Sequence[str], light: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        core = () if light else _host(Path(folder))
        try:
            tool.install(arguments, [*core, *wanted.arguments])
        except PluginError as error:
            raise PluginError(
                f"{candidate.origin} and medkit {metadata.version(CORE)} cannot be installed "
                f"together: {error}"
            ) from None


def _describe(folder: Path, wanted: Wanted, candidate: Candidate, light: bool) -> Home:
    from medkit import __version__

    paths = [str(find_library(folder)), *(library_folders() if light else ())]
    home = Home(
        folder=str(folder),
        distribution=candidate.distribution,
        requirement=wanted.shown,
        editable=wanted.editable,
        light=light,
        medkit=__version__,
        paths=tuple(paths),
        created=datetime.now(UTC).isoformat(),
    )
    if home.find(home.distribution) is None:
        raise PluginError(f"{candidate.origin} is not in the environment that was made for it")
    return home


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time make and remove environments."""
    import filelock

    root_folder().mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(root_folder() / _LOCK, timeout=0):
            yield
    except filelock.Timeout:
        raise PluginError(
            f"another process installs plugins in {root_folder()}; wait until it has ended"
        ) from None


def _host(folder: Path) -> tuple[str, ...]:
    """Return what gives an environment the medkit of this one: its source, or its wheel."""
    distribution = metadata.distribution(CORE)
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    if said.get("dir_info", {}).get("editable"):
        return ("-e", url2pathname(urlsplit(said["url"]).path))
    return (str(pack_wheel(distribution, folder)),)


def pack_wheel(distribution: metadata.Distribution, folder: Path) -> Path:
    """Write the wheel that a distribution was installed from, as far as it is still there.

    The Binary Distribution Format of the Python Packaging User Guide: the files of RECORD, and
    RECORD anew. Scripts are made from the entry points by whoever installs it.
    """
    tag = re.search(r"^Tag: (\S+)", distribution.read_text("WHEEL") or "", re.MULTILINE)
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    wheel = folder / f"{name}-{distribution.version}-{tag[1] if tag else 'py3-none-any'}.whl"
    rows, about = [], f"{name}-{distribution.version}.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for file in distribution.files or ():
            if _is_of_wheel(file):
                content = file.read_binary()
                archive.writestr(file.as_posix(), content)
                rows.append((file.as_posix(), _hash(content), len(content)))
        listed = io.StringIO()
        csv.writer(listed, lineterminator="\n").writerows([*rows, (f"{about}/RECORD", "", "")])
        archive.writestr(f"{about}/RECORD", listed.getvalue())
    return wheel


def _is_of_wheel(file: PurePosixPath) -> bool:
    return not (file.parts[0] == ".." or file.suffix == ".pyc" or file.name in _ADDED)


def _hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def find_home(distribution: str) -> Home | None:
    """Return the environment that was made for a distribution, if any."""
    homes = (home for home in list_homes() if canonical(home.distribution) == distribution)
    return next(homes, None)
