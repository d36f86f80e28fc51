"""Connections of the HTTP client: to checked addresses, with trusted certificates, as whom."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, get_netrc_auth, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from medkit.sources.manners import Manners


def make_context() -> ssl.SSLContext:
    """Return who is trusted: the certificates that requests uses, or those of the environment."""
    places = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    bundle = next(filter(None, places), DEFAULT_CA_BUNDLE_PATH)
    folder = bundle if Path(bundle).is_dir() else None
    return ssl.create_default_context(cafile=None if folder else bundle, capath=folder)


@lru_cache(maxsize=256)
def read_netrc(host: str) -> tuple[str, str] | None:
    """Return user and password for a host, from ~/.netrc."""
    entry: tuple[str, str] | None = get_netrc_auth(f"https://{host}/")
    return entry


@lru_cache(maxsize=256)
def find_proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    proxy: str | None = select_proxy(url, get_environ_proxies(url))
    return proxy


def make_pools(manners: Manners) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools whose connections go to addresses that the manners let through, and no others.

    The name is looked up here and nowhere else; TLS still checks the certificate for the name.
    """

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn, manners)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn, manners)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(
    connection: HTTPConnection, connect: Callable[[], socket.socket], manners: Manners
) -> socket.socket:
    name = connection._dns_host
    try:
        addresses = manners.resolve(connection.host, connection.port or 0)
    except socket.gaierror as error:
        raise urllib3.exceptions.NameResolutionError(name, connection, error) from error
    try:
        for address in addresses[:-1]:
            connection._dns_host = address
            with suppress(urllib3.exceptions.HTTPError):
                return connect()
        connection._dns_host = addresses[-1]
        return connect()
    finally:
        connection._dns_host = name
