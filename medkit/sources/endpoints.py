"""Where a service answers: at its public address, or at one that the environment names instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medkit.errors import UsageError
from medkit.sources.addresses import check_url, place_of

if TYPE_CHECKING:
    from medkit.sources.https import Client


@dataclass(frozen=True)
class Endpoint:
    """A service.

    Attributes
    ----------
    url : str
        Where it answers, without a slash at its end.
    hosts : tuple of str
        Hosts that it may send us to; as `plans.Plan.hosts`.
    asked : tuple of str
        Host and port that the user named in the environment, if one did; as `plans.Plan.asked`.
    """

    url: str
    hosts: tuple[str, ...]
    asked: tuple[str, ...] = ()

    @property
    def is_usual(self) -> bool:
        """Whether it is the public one."""
        return not self.asked

    def make_client(
        self,
        credentials: Callable[[str], Mapping[str, str]] | None = None,
        refusals: Mapping[int, str] | None = None,
        **options: Any,
    ) -> Client:
        """Return what speaks to it."""
        from medkit.sources.https import Client  # slow to import, and few commands need it
        from medkit.sources.manners import Manners

        return Client(Manners(self.hosts, self.asked), credentials, refusals, **options)


def find_endpoint(variable: str, usual: str, hosts: tuple[str, ...]) -> Endpoint:
    """Return the service at its usual address, or where a variable of the environment says.

    Raises
    ------
    UsageError
        If the variable names no address that may be fetched from.
    """
    named = os.environ.get(variable, "").rstrip("/")
    if not named:
        return Endpoint(usual, hosts)
    try:
        return Endpoint(check_url(named), hosts, (place_of(named),))
    except UsageError as error:
        raise UsageError(f"{variable}: {error}") from None
