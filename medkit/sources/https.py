"""The one HTTP client: asks with manners, follows redirects itself, hides no fault.

Objects are opened from an offset on (RFC 9110, sections 13.1.5 and 14: If-Range, Range and
Content-Range), bytes as they are sent. Whether the right ones came is for `transfer` to find out.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool

from medkit.errors import SourceError
from medkit.sources.addresses import follow, hide_query, name_of_url, place_of
from medkit.sources.connections import find_proxy, make_context, make_pools, read_netrc
from medkit.sources.descriptor import Descriptor
from medkit.sources.manners import Manners
from medkit.sources.plans import Delivery, Item, Plan, Preflight, Unsteady, read_hashes
from medkit.sources.retries import persist
from medkit.sources.verification import read_headers

CHUNK = 1 << 18
_HOPS = 10
_ANSWER = 1 << 26  # bytes of one that is short
_PATIENCE = 30.0  # seconds without a byte
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# Bytes on disk are then the bytes sent, as hash, size and range mean them.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "medkit", "Accept": "*/*"}
_WORDS = {
    401: "asks who you are; put a user and a password for it into ~/.netrc",
    403: "does not let you have it",
    404: "has no such thing",
    410: "says that it was withdrawn",
}

Credentials = Callable[[str], Mapping[str, str]]


class Client:
    """Speaks HTTP to the hosts of one source; may be used by several threads.

    Parameters
    ----------
    manners : Manners
        Whom it may speak to.
    credentials : callable, optional
        As `Plan.credentials`.
    refusals : mapping of int to str, optional
        As `Plan.refusals`.
    connections : int
        How many are kept open to a host.
    patience : float
        Seconds to wait for a connection, and for the next byte.
    """

    def __init__(
        self,
        manners: Manners,
        credentials: Credentials | None = None,
        refusals: Mapping[int, str] | None = None,
        *,
        connections: int = 8,
        patience: float = _PATIENCE,
    ) -> None:
        logging.getLogger("urllib3").setLevel(logging.WARNING)  # it logs whole addresses
        self._manners = manners
        self._credentials = credentials
        self._refusals = refusals or {}
        self._options: dict[str, Any] = {
            "maxsize": connections,
            "timeout": urllib3.Timeout(connect=patience, read=patience),
            "retries": False,
        }
        self._classes = make_pools(manners)
        self._lock = threading.Lock()
        self._pools = cache(self._make_pool)
        self._proxied = cache(self._make_proxied)

    @contextmanager
    def open(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Yield the answer of a server, its body unread, after all redirects.

        Raises
        ------
        SourceError
            If it is not to be had: by our manners, or because the server says so.
        Unsteady
            If it may be had later.
        """
        response = self._follow("GET", url, dict(headers or {}))
        try:
            self._judge(url, response)
            with _explaining(url):
                yield response
        finally:
            response.close()  # a connection whose body was read to its end is kept all the same

    def read(
        self, url: str, headers: Mapping[str, str] | None = None, limit: int = _ANSWER
    ) -> bytes:
        """Return a short body, such as a listing; tried again where that may help.

        Raises
        ------
        SourceError
            If it cannot be had, or is longer than ``limit`` bytes.
        """

        def ask() -> bytes:
            with self.open(url, headers) as response:
                body = response.read(limit + 1, decode_content=True)
            if len(body) > limit:
                raise SourceError(f"{hide_query(url)} answers with more than {limit:,} bytes")
            return body

        return persist(ask, hide_query(url))

    def post(
        self, url: str, headers: Mapping[str, str], body: Callable[[], Iterable[bytes]]
    ) -> tuple[int, bytes]:
        """Send a body of a stated length, and return the status and a short answer.

        It goes to this address and nowhere else: what redirects gets it not.

        Parameters
        ----------
        url : str
            Where to.
        headers : mapping of str to str
            With the ``Content-Length``.
        body : callable
            Returns the body, from its start.

        Raises
        ------
        SourceError
            If our manners forbid the place, or it wants to know who we are.
        Unsteady
            If it may be taken later.
        """
        self._manners.check(url)
        with _explaining(url):
            known = {**_HEADERS, **headers, **self._introduce(url)}
            response = self._ask("POST", url, known, body=body())
            try:
                if response.status in (*_PASSING, *_REDIRECTS, 401, 403):
                    self._judge(url, response)
                return response.status, response.read(_ANSWER, decode_content=True)
            finally:
                response.close()

    def ask_size(self, url: str) -> int | None:
        """Return the bytes that a server says a file has, without moving it; None if it does not.

        Raises
        ------
        SourceError
            If our manners forbid a place that it redirects to.
        """
        try:
            response = self._follow("HEAD", url, {})
        except Unsteady:
            return None  # the download will say what is wrong, after its retries
        response.release_conn()
        size = response.headers.get("content-length", "")
        return int(size) if response.status == 200 and size.isdigit() else None

    @contextmanager
    def carry(self, item: Item, offset: int, validator: str) -> Iterator[Delivery]:
        """Yield the bytes of an item from an offset on: the `plans.Carrier` of HTTP.

        They come from its start where the server does not give ranges, or the object is not the
        one of then any more.
        """
        wishes = [(offset, validator), (0, "")] if offset and validator else [(0, "")]
        for start, state in wishes:
            ranged = {"Range": f"bytes={start}-", "If-Range": state} if start else {}
            with self.open(item.url, {**item.headers, **ranged}) as response:
                delivery = _describe(response, start, state)
                if delivery is not None:
                    yield replace(delivery, hashes=self._complete(item, delivery.hashes))
                    return
        raise Unsteady("it sends another part than the one asked for")

    def _complete(self, item: Item, stated: Mapping[str, str]) -> Mapping[str, str]:
        """Return what a server states, and the size of the parts that an ETag of S3 is made of.

        S3 tells it when it is asked for a part by number; nobody else has such ETags.
        """
        etag = (item.hashes or stated).get("s3-etag", "")
        if "-" not in etag or "?" in item.url:  # a signature would not fit the other address
            return stated
        with suppress(SourceError, Unsteady):
            answer = self._follow("HEAD", f"{item.url}?partNumber=1", {})
            answer.close()
            if (
                answer.status == 206
                and (part := answer.headers.get("content-length", "")).isdigit()
            ):
                return {**stated, "s3-part": part}
        return stated

    def _follow(self, method: str, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        place, whence = url, ""
        for _ in range(_HOPS):
            self._manners.check(place, whence)
            with _explaining(url):
                known = {**_HEADERS, **headers, **self._introduce(place)}
                response = self._ask(method, place, known)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            place, whence = follow(place, response.headers.get("location", "")), url
        raise SourceError(f"{hide_query(url)} redirects more than {_HOPS} times")

    def _introduce(self, url: str) -> Mapping[str, str]:
        """Return the headers that say to this host, and to no other, who we are."""
        stated = self._credentials(url) if self._credentials else {}
        if stated or (entry := read_netrc(urlsplit(url).hostname or "")) is None:
            return stated
        return urllib3.make_headers(basic_auth=":".join(entry))

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: Iterable[bytes] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, on a connection that is kept, and return its answer unread."""
        parts = urlsplit(url)
        unread: Any = {"headers": headers, "redirect": False, "preload_content": False}
        unread |= {"body": body} if body is not None else {}
        proxy = find_proxy(f"{parts.scheme}://{parts.netloc}")
        if proxy:
            return self._proxied(proxy).urlopen(method, url, **unread)
        with self._lock:  # or each thread would make a pool of its own
            pool = self._pools(parts.scheme, parts.hostname or "", parts.port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return pool.urlopen(method, target, retries=False, **unread)

    def _make_pool(self, scheme: str, host: str, port: int | None) -> HTTPConnectionPool:
        secured: dict[str, Any] = {"ssl_context": make_context()} if scheme == "https" else {}
        return self._classes[scheme](host, port, **self._options, **secured)

    def _make_proxied(self, proxy: str) -> urllib3.PoolManager:
        # The proxy is the user's own choice, and looks the names up itself.
        return urllib3.ProxyManager(proxy, **self._options, ssl_context=make_context())

    def _judge(self, url: str, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status == 416:  # there is nothing at that offset: begin anew
            raise Unsteady("it has no such part (416)", fresh=True)
        if status in _PASSING:
            raise Unsteady(f"it answers {status} {response.reason}", _read_wait(response))
        words = _WORDS.get(status, "refuses")
        advice = self._refusals.get(status, "")
        raise SourceError(
            f"{hide_query(url)}: the server answers {status} {response.reason or ''}: it {words}"
            f"{'; ' if advice else ''}{advice}"
        )


def make_client(plan: Plan, **options: Any) -> Client:
    """Return a client with the manners of a plan."""
    manners = Manners(plan.hosts, plan.asked, plan.plain)
    return Client(manners, plan.credentials, plan.refusals, **options)


def plan(descriptor: Descriptor, *, asked: str = "", plain: bool = False) -> Plan:
    """Plan the files that a descriptor names.

    Parameters
    ----------
    descriptor : Descriptor
        Of the protocol ``https``.
    asked : str
        The address, if the user typed it.
    plain : bool
        As of `Plan`.
    """
    items = tuple(
        Item(
            file.url,
            name_of_url(file.url),
            file.size,
            read_hashes(file),
            file.unpack,
        )
        for file in descriptor.files
    )
    made = Plan(
        source=descriptor,
        items=lambda: items,
        # The address of what has a hash may change; one without may hold a secret.
        request=["https", [[one.hashes or one.url, one.size, one.unpack] for one in items]],
        preflight=Preflight(files=len(items), size=descriptor.size_bytes),
        hosts=None if asked else (*descriptor.hosts, *{_host(item.url) for item in items}),
        asked=(place_of(asked),) if asked else (),
        plain=plain,
    )
    if descriptor.size_bytes is not None:
        return made
    sizes = [item.size or make_client(made).ask_size(item.url) for item in items]
    known = None if None in sizes else sum(size or 0 for size in sizes)
    return replace(made, preflight=replace(made.preflight, size=known))


def _host(url: str) -> str:
    return place_of(url).rpartition(":")[0]


def _describe(response: urllib3.BaseHTTPResponse, offset: int, state: str) -> Delivery | None:
    """Return what a server is about to send; None if it is another part than was asked for."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    coding = headers.get("content-encoding", "").lower().replace("identity", "")
    length = headers.get("content-length", "")
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    found = Delivery(
        chunks=_read(response),
        offset=0,
        size=int(length) if length.isdigit() and not chunked else None,
        validator=_find_validator(headers),
        hashes=read_headers(headers),
        ends=chunked or length.isdigit(),
        coding=coding,
        kind=headers.get("content-type", "").partition(";")[0].strip().lower(),
    )
    if response.status == 200:
        return found
    given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", "").strip())
    if not offset or not given:
        return None
    first, last, size = map(int, given.groups())
    # Some servers send a part of the new object where If-Range names the old one; some begin
    # earlier than asked, which will do if they say so.
    fits = first <= offset < size and last == size - 1 and length in ("", str(size - first))
    if not fits or found.validator != state or coding:
        return None
    return replace(found, offset=first, size=size, validator=state)


def _read(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield what has come as it comes: who waits for a full buffer sees no slow server."""
    if response.chunked:
        yield from response.stream(CHUNK, decode_content=False)
        return
    while part := response.read1(CHUNK, decode_content=False):
        yield part


def _find_validator(headers: Mapping[str, str]) -> str:
    """Return what If-Range may name: a strong ETag, else a time that no second change shares.

    RFC 9110, section 8.8.2.2: a Last-Modified is strong if the answer is a minute younger.
    """
    etag = headers.get("etag", "")
    if etag.startswith('"'):
        return etag
    try:
        changed = parsedate_to_datetime(headers.get("last-modified", ""))
        answered = parsedate_to_datetime(headers.get("date", ""))
        strong = (answered - changed).total_seconds() >= 60
    except (ValueError, TypeError):
        return ""
    return headers["last-modified"] if strong else ""


def _read_wait(response: urllib3.BaseHTTPResponse) -> float | None:
    """Return the seconds that Retry-After asks for (RFC 9110, section 10.2.3), if it does."""
    stated = response.headers.get("retry-after", "")
    try:
        return urllib3.Retry().parse_retry_after(stated) if stated else None
    except urllib3.exceptions.InvalidHeader:
        return None


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    """Turn what urllib3 raises into errors of ours, without the queries that it quotes."""
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise SourceError(
            f"{hide_query(url)}: its certificate is not trusted ({_shorten(error)}); if it is your "
            "own server, name its authority's file in REQUESTS_CA_BUNDLE"
        ) from None
    except urllib3.exceptions.LocationValueError:
        raise SourceError(f"{hide_query(url)} is no address") from None
    except urllib3.exceptions.NameResolutionError:
        host = place_of(url).rpartition(":")[0]
        raise Unsteady(f"the name {host} is not found; is there a network?") from None
    except urllib3.exceptions.HTTPError as error:
        raise Unsteady(_shorten(error)) from None


def _shorten(error: Exception) -> str:
    """Return what an error says without objects, queries and brackets."""
    text = re.sub(r"^\w+\(host=[^)]*\): |<[^>]*>:?\s*|\?\S*", "", str(error))
    return text.strip("() ") or type(error).__name__
