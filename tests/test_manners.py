"""Whom we speak to: known hosts, public addresses, and what the user typed."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from faultserver import FaultServer

from medkit.errors import SourceError
from medkit.sources import retries
from medkit.sources.https import Client
from medkit.sources.manners import Manners, is_public

KNOWN = Manners(hosts=("example.org", "*.example.com"))
ANY = Manners(hosts=None)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *(
            (address, False)
            for address in (
                "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1",
                "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
                "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
            )
        ),
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_open_network_are_known(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("manners", "url"),
    [
        (KNOWN, "https://example.org/a"),
        (KNOWN, "https://cdn.example.com/a"),
        (ANY, "https://anywhere.net/a"),
        (Manners(asked=("10.0.0.9:443",)), "https://10.0.0.9/a"),
        (Manners(asked=("pacs:8042",), plain=True), "http://pacs:8042/a"),
        (Manners(asked=("127.0.0.1:8042",)), "http://127.0.0.1:8042/a"),
    ],
)
def test_what_is_known_or_asked_for_passes(manners: Manners, url: str) -> None:
    manners.check(url)
    manners.check(url)


@pytest.mark.parametrize(
    ("manners", "url", "message"),
    [
        (KNOWN, "http://example.org/a", "which is not https"),
        (KNOWN, "https://example.com/a", "no host of this source (known: example.org"),
        (KNOWN, "https://example.org.evil.net/a", "no host of this source"),
        (KNOWN, "https://evil.net/?example.org", "no host of this source"),
        (ANY, "https://127.0.0.1/a", "on this machine or a private network"),
        (ANY, "https://localhost/a", "on this machine or a private network"),
        (ANY, "https://[::1]/a", "on this machine or a private network"),
        (ANY, "https://192.168.0.1/a", "on this machine or a private network"),
        (ANY, "file:///etc/passwd", "which is not https"),
        (ANY, "https://", "which is not https"),
        (Manners(asked=("pacs:8042",)), "http://pacs:8042/a", "which is not https"),
        (Manners(asked=("pacs:8042",), plain=True), "http://pacs:22/a", "which is not https"),
        (Manners(asked=("pacs:8042",), plain=True), "http://other:8042/a", "which is not https"),
    ],
)
def test_the_rest_is_refused(manners: Manners, url: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        manners.check(url, "https://example.org/start?sig=secret")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def answer_lookups(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names be looked up as told, one answer after the other; returns who was asked for."""
    asked: list[str] = []

    def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_that_leads_to_a_private_network_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_lookups(monkeypatch, ["169.254.169.254"])
    with pytest.raises(SourceError, match=r"example\.org is at 169\.254\.169\.254"):
        KNOWN.resolve("example.org", 443)
    answer_lookups(monkeypatch, ["10.0.0.1", "93.184.216.34"])
    assert KNOWN.resolve("example.org", 443) == ["93.184.216.34"]


def test_what_was_typed_may_lead_there_but_not_to_the_cloud_s_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Manners(asked=("pacs.hospital:443", "169.254.1.1:443"))
    answer_lookups(monkeypatch, ["10.0.0.1"])
    assert asked.resolve("pacs.hospital", 443) == ["10.0.0.1"]
    with pytest.raises(SourceError):
        asked.resolve("pacs.hospital", 22)
    answer_lookups(monkeypatch, ["169.254.169.254"])
    with pytest.raises(SourceError, match="private network"):
        asked.resolve("pacs.hospital", 443)
    answer_lookups(monkeypatch, ["169.254.1.1"])  # a printer's cable: typed as it is
    assert asked.resolve("169.254.1.1", 443) == ["169.254.1.1"]


def test_a_name_is_looked_up_once_and_the_checked_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that leads elsewhere the second time (DNS rebinding) gains nothing."""
    with FaultServer({"/a": b"right"}) as server:
        port = int(server.url.rpartition(":")[2])
        real = socket.getaddrinfo
        seen = []

        def look_up(host: str, *rest: Any, **more: Any) -> Any:
            seen.append(host)
            if host == "pacs.example":
                return real("127.0.0.1" if seen.count(host) == 1 else "127.0.0.2", *rest, **more)
            return real(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        client = Client(Manners(asked=(f"pacs.example:{port}",), plain=True))
        assert client.read(f"http://pacs.example:{port}/a") == b"right"
        assert seen.count("pacs.example") == 1


def test_a_proxy_of_the_user_is_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one on this machine or a private network, and for names that only it can look up."""
    with FaultServer({"http://pacs.behind.proxy/a": b"right"}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        client = Client(Manners(asked=("pacs.behind.proxy:80",), plain=True))
        assert client.read("http://pacs.behind.proxy/a") == b"right"
        assert [path for _, path, _ in proxy.requests] == ["http://pacs.behind.proxy/a"]


def test_a_listing_is_bounded_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from faultserver import cut, once

    monkeypatch.setattr(retries, "_backoff", lambda state: 0.0)
    with FaultServer({"/a": b"x" * 1000}, {"/a": once(cut)}) as server:
        client = Client(Manners(asked=(server.url.removeprefix("http://"),)))
        assert client.read(f"{server.url}/a") == b"x" * 1000
        with pytest.raises(SourceError, match="answers with more than 999 bytes"):
            client.read(f"{server.url}/a", limit=999)
