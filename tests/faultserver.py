"""A server on this machine that serves as badly as servers do, and counts what it sent."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

CHUNK = 1 << 14


@dataclass
class Request:
    """What a client asks for, and the connection to answer on."""

    method: str
    path: str
    headers: dict[str, str]
    connection: socket.socket
    server: FaultServer
    number: int  # how many requests of this path came before

    def send(self, status: str, headers: dict[str, object], body: bytes = b"") -> None:
        """Send a head, and bytes of a body, which are counted."""
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self.pour(body)

    def pour(self, body: bytes) -> None:
        """Send bytes of a body; those that were handed to the system count as sent."""
        if self.method == "HEAD":
            return
        for start in range(0, len(body), CHUNK):
            part = body[start : start + CHUNK]
            if self.server.pause:
                time.sleep(self.server.pause)
            self.connection.sendall(part)
            self.server.count(self.path, len(part))

    def hang_up(self) -> None:
        """End the connection, as a server that dies does."""
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    @property
    def start(self) -> int:
        """The byte that is asked for first."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


Answer = Callable[[Request, bytes], None]


@dataclass
class FaultServer:
    """Serves objects, each by a fault of its own or well.

    Attributes
    ----------
    objects : dict of str to bytes
        By path.
    faults : dict of str to callable
        By path; others are served well.
    sent : Counter
        Bytes of bodies, by path.
    requests : list of tuple of str
        Method, path and Range of each.
    buffer : int or None
        Bytes that the system may hold of what was sent, for each connection.
    pause : float
        Seconds before each chunk of a body.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Answer] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    buffer: int | None = None
    pause: float = 0.0

    def __enter__(self) -> FaultServer:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        if self.buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def count(self, path: str, size: int) -> None:
        """Take in bytes that were sent."""
        with self._lock:
            self.sent[path] += size

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            try:
                while True:
                    while b"\r\n\r\n" not in received:
                        part = connection.recv(1 << 16)
                        if not part:
                            return
                        received += part
                    head, _, received = received.partition(b"\r\n\r\n")
                    self._answer(head.decode("latin-1"), connection)
            except OSError:
                return

    def _answer(self, head: str, connection: socket.socket) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        path = target.partition("?")[0]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        with self._lock:
            number = sum(asked == path and how == "GET" for how, asked, _ in self.requests)
            self.requests.append((method, path, headers.get("range", "")))
        request = Request(method, path, headers, connection, self, number)
        self.faults.get(path, serve_well)(request, self.objects.get(path, b""))


# ---- How an object is served ---------------------------------------------------------------------


def etag(body: bytes) -> str:
    return f'"{hash(body) & 0xFFFFFFFF:08x}"'


def serve_well(request: Request, body: bytes, **more: object) -> None:
    """Serve as RFC 9110 says, with ranges."""
    if request.path not in request.server.objects:
        request.send("404 Not Found", {"Content-Length": 0})
        return
    start = request.start if request.headers.get("if-range") in (None, etag(body)) else 0
    headers: dict[str, object] = {"ETag": etag(body), "Content-Length": len(body) - start, **more}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    request.send("206 Partial Content" if start else "200 OK", headers, body[start:])


def once(fault: Answer) -> Answer:
    """Return a fault that happens to the first request alone."""

    def answer(request: Request, body: bytes) -> None:
        (serve_well if request.number else fault)(request, body)

    return answer


def cut(request: Request, body: bytes) -> None:
    """State a length, and send half of it."""
    start = request.start
    request.send(
        "200 OK", {"ETag": etag(body), "Content-Length": len(body)}, body[: len(body) // 2]
    )
    assert not start or request.number
    request.hang_up()


def cut_without_length(request: Request, body: bytes) -> None:
    """State no length, and send half."""
    request.send("200 OK", {"Connection": "close"}, body[: len(body) // 2])
    request.hang_up()


def cut_in_chunks(request: Request, body: bytes) -> None:
    """Send half in chunks, without the last one."""
    half = body[: len(body) // 2]
    request.send("200 OK", {"Transfer-Encoding": "chunked"})
    request.connection.sendall(b"%x\r\n" % len(half))
    request.pour(half)
    request.hang_up()


def stall(request: Request, body: bytes) -> None:
    """Send half, and then nothing."""
    request.send(
        "200 OK", {"ETag": etag(body), "Content-Length": len(body)}, body[: len(body) // 2]
    )
    time.sleep(60)


def drip(request: Request, body: bytes) -> None:
    """Send a byte now and then."""
    request.send("200 OK", {"ETag": etag(body), "Content-Length": len(body)})
    for position in range(len(body)):
        request.pour(body[position : position + 1])
        time.sleep(0.02)


def never_end(request: Request, body: bytes) -> None:
    """Send, without a length, for ever."""
    request.send("200 OK", {"Transfer-Encoding": "chunked"})
    while True:
        request.connection.sendall(b"%x\r\n" % CHUNK)
        request.pour(bytes(CHUNK))
        request.connection.sendall(b"\r\n")


def answer_with(status: str, body: bytes = b"", **headers: object) -> Answer:
    """Return what answers with a status."""

    def answer(request: Request, _: bytes) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request.send(status, {"Content-Length": len(body), **named}, body)

    return answer


PAGE = b"<!DOCTYPE html><title>500</title><p>Something went wrong" + b" " * 4000


def send_page(request: Request, _: bytes) -> None:
    """Send an error as a page, and call it a zip."""
    request.send("200 OK", {"Content-Type": "application/zip", "Content-Length": len(PAGE)}, PAGE)


def send_login(request: Request, _: bytes) -> None:
    """Send a page that wants a password, and call it one."""
    request.send("200 OK", {"Content-Type": "text/html", "Content-Length": len(PAGE)}, PAGE)


def flip(request: Request, body: bytes) -> None:
    """Send one bit otherwise."""
    middle = len(body) // 2
    wrong = body[:middle] + bytes([body[middle] ^ 4]) + body[middle + 1 :]
    request.send("200 OK", {"ETag": etag(body), "Content-Length": len(body)}, wrong)


def change_in_the_middle(before: bytes) -> Answer:
    """Return what sends half of another object first, and then has this one."""

    def answer(request: Request, body: bytes) -> None:
        (serve_well if request.number else cut)(request, body if request.number else before)

    return answer


def ignore_if_range(before: bytes) -> Answer:
    """Return what cuts another object, and then sends the rest of this one, whatever is asked."""

    def answer(request: Request, body: bytes) -> None:
        if not request.number:
            cut(request, before)
        request.headers.pop("if-range", None)
        serve_well(request, body)

    return answer


def lie_about_the_range(request: Request, body: bytes) -> None:
    """Cut; then send from the start where the middle is asked for, and say so."""
    if not request.number:
        cut(request, body)
    elif request.start:
        headers = {
            "ETag": etag(body),
            "Content-Length": len(body),
            "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}",
        }
        request.send("206 Partial Content", headers, body)
    else:
        serve_well(request, body)


def begin_elsewhere(request: Request, body: bytes) -> None:
    """Cut; then send a part that begins behind the one that is asked for."""
    if not request.number:
        cut(request, body)
    elif request.start:
        rest = body[-100:]
        placed = f"bytes {len(body) - 100}-{len(body) - 1}/{len(body)}"
        headers = {"ETag": etag(body), "Content-Length": 100, "Content-Range": placed}
        request.send("206 Partial Content", headers, rest)
    else:
        serve_well(request, body)


def refuse_the_range(request: Request, body: bytes) -> None:
    """Cut; then say that there is no such part."""
    if not request.number:
        cut(request, body)
    elif request.start:
        request.send("416 Range Not Satisfiable", {"Content-Length": 0})
    else:
        serve_well(request, body)


def pack_on_the_way(request: Request, body: bytes) -> None:
    """Pack what was asked for as it is."""
    packed = gzip.compress(body, 1)
    request.send("200 OK", {"Content-Encoding": "gzip", "Content-Length": len(packed)}, packed)


def call_packed(request: Request, body: bytes) -> None:
    """Send a .gz as it lies there, and call that a packing."""
    request.send("200 OK", {"Content-Encoding": "gzip", "Content-Length": len(body)}, body)


def redirect_to(place: str) -> Answer:
    """Return what sends away."""
    return answer_with("302 Found", Location=place)


def send_more(request: Request, body: bytes) -> None:
    """State another length than the source does."""
    request.send("200 OK", {"Content-Length": len(body) + 1}, body + b"x")
