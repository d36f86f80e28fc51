"""Files over HTTPS: downloaded by pooch, kept only with the right SHA-256."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import requests

from medkit.engine import Progress
from medkit.errors import SourceError
from medkit.sources.addresses import follow, hide_query, is_safe, name_of_url
from medkit.sources.descriptor import SourceFile

RETRIES = 3
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20
# Bytes on disk are then the bytes sent, as the hash and the size mean them.
_HEADERS = {"Accept-Encoding": "identity"}


def ask_size(url: str) -> int | None:
    """Return the bytes that a server says a file has, without moving it; None if it does not say.

    Raises
    ------
    SourceError
        If the server redirects to what is not https.
    """
    try:
        answer = requests.head(
            url,
            timeout=_TIMEOUT,
            allow_redirects=True,
            headers=_HEADERS,
            hooks={"response": _watch_redirects(url)},
        )
    except requests.RequestException:
        return None  # the download will say what is wrong, after its retries
    size = answer.headers.get("content-length", "")
    return int(size) if answer.ok and size.isdigit() else None


def download(file: SourceFile, folder: Path, progress: Progress, *, retries: int = RETRIES) -> Path:
    """Download a file into a folder, or find it there with the right hash.

    It comes under a temporary name and gets its own when its SHA-256 is right. A download that
    was cut begins again from its start.

    Raises
    ------
    SourceError
        If the server does not give it, redirects to what is not https, or the bytes are others.
    """
    import pooch

    name = name_of_url(file.url)
    folder.mkdir(parents=True, exist_ok=True)
    if not file.sha256:  # whole or not, nobody could tell
        (folder / name).unlink(missing_ok=True)
    if not (folder / name).exists():
        _check_room(file, folder)
    store = pooch.create(
        path=folder,
        base_url="",
        registry={name: file.sha256 or None},
        urls={name: file.url},
        retry_if_failed=retries,
    )
    pooch.get_logger().setLevel("ERROR")  # it logs whole URLs, and secrets in them
    downloader = pooch.HTTPDownloader(
        progressbar=_Bar(progress),
        chunk_size=_CHUNK,
        headers=_HEADERS,
        timeout=_TIMEOUT,
        hooks={"response": [_watch_redirects(file.url), _watch_answer(file)]},
    )
    with _explaining(file.url):
        return Path(store.fetch(name, downloader=downloader))


def _watch_redirects(url: str) -> Callable[..., None]:
    # A page on the network must not send us to a service on this machine.
    loopback = not is_safe(url)
    where = hide_query(url)

    def look(answer: requests.Response, **_: Any) -> None:
        if answer.is_redirect:
            following = follow(answer.url, answer.headers["location"])
            if not is_safe(following, loopback=loopback):
                _end(answer, f"{where} redirects to {hide_query(following)!r}, which is not https")

    return look


def _watch_answer(file: SourceFile) -> Callable[..., None]:
    """Return what ends a download at once, where trying again would be in vain."""
    where = hide_query(file.url)

    def look(answer: requests.Response, **_: Any) -> None:
        status, stated = answer.status_code, answer.headers.get("content-length")
        if 400 <= status < 500 and status not in (408, 429):
            _end(answer, f"{where}: the server answers {status} {answer.reason}")
        if status >= 400:
            answer.close()  # nobody reads the body before the next attempt
        if status == 200 and file.size and stated and stated != str(file.size):
            _end(answer, f"{where} has {stated} bytes, not the {file.size} stated for it")

    return look


def _end(answer: requests.Response, why: str) -> NoReturn:
    answer.close()
    raise SourceError(why)


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    """Turn what requests and pooch raise into one error, without the queries they quote."""
    try:
        yield
    except (requests.RequestException, ValueError, OSError) as error:
        reason = re.sub(r"\?\S*", "?...", str(error))
        raise SourceError(f"{hide_query(url)} cannot be fetched: {reason}") from None


def _check_room(file: SourceFile, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if file.size and file.size > free:
        raise SourceError(
            f"{hide_query(file.url)} has {file.size:,} bytes, and {free:,} are free in {folder}; "
            "make room, or use a workspace on another disk"
        )


class _Bar:
    """The progress bar that pooch drives."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0
        self.total = 0

    def update(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self.total or None, "bytes")

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Do nothing: whoever made the progress ends it."""
