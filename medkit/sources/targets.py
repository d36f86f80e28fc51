"""What a user names, a source, a folder, an archive or an address, as a descriptor and a plan."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.errors import UsageError
from medkit.plugins import load_plugin
from medkit.sources import tcia
from medkit.sources.addresses import check_url, hide_query, name_of_url, stem_of
from medkit.sources.descriptor import (
    Descriptor,
    Listing,
    Plugged,
    SourceFile,
    choose_variant,
    find_descriptor,
    list_descriptors,
    search_descriptors,
    set_spacing,
)
from medkit.sources.plans import Plan
from medkit.sources.splits import find_siblings, name_whole
from medkit.sources.unpacking import detect_format
from medkit.workspace import check_name

_UNSTATED = "not stated"
_NOTHING = Plugged()
# By scheme, the module that describes and plans what has it.
_SERVICES = {
    **{name: name for name in ("idc", "tcia", "kaggle", "dimse")},
    **dict.fromkeys(("dicomweb", "dicomweb+https", "dicomweb+http"), "dicomweb"),
    **dict.fromkeys(("s3", "s3a", "gs", "gcs", "sftp", "ssh", "az", "abfs"), "remote"),
}
# Protocols of addresses that are asked for, wherever they lead, where the user typed them.
_ASKED = ("https", "dicomweb")
# Schemes that are no HTTP and name a host.
_WITH_HOST = ("dimse", "sftp", "ssh")
# Protocols of servers that list what they may not give.
_LISTING = ("dicomweb", "dimse")


@dataclass(frozen=True)
class Wish:
    """What a user says besides the target.

    Attributes
    ----------
    name : str
        What it is called in the workspace; by default what the target is called.
    sha256 : str
        What a download or an archive must hash to.
    licence : str
        Of images that no descriptor describes.
    unchecked : bool
        Take a download of which no SHA-256 is known.
    plain : bool
        Take an address that begins with ``http://`` where it is not of this machine.
    where : str
        What of it; each protocol says how that is written.
    variant : str
        Which form of a set that has several.
    spacing : str
        Of voxels without a header, mm: along a row, from row to row, from slice to slice.
    own : str
        What the user has of a source that nothing can fetch: an address, an archive, a file.
    leave_out : bool
        Of a server of images: do without what it lists and does not give.
    """

    name: str = ""
    sha256: str = ""
    licence: str = ""
    unchecked: bool = False
    plain: bool = False
    where: str = ""
    variant: str = ""
    spacing: str = ""
    own: str = ""
    leave_out: bool = False


def plan_target(target: str, *, plugin: str = "", **wishes: Any) -> Plan:
    """Return what would be brought; listings are moved, and nothing else.

    Parameters
    ----------
    target : str
        An address, the name of a descriptor, or the path of a folder, an archive or a manifest.
    plugin : str
        A plugin whose sources are known, too.
    **wishes
        As the attributes of `Wish`.

    Raises
    ------
    UsageError
        As of `describe_target`.
    SourceError
        If the source cannot say what it has.
    """
    wish, plugged = Wish(**wishes), _load(plugin)
    described = _describe(target, wish, plugged)
    typed = next((text for text in (wish.own, target) if "://" in text), "")
    return plan_source(
        described, asked=typed, plain=wish.plain, leave_out=wish.leave_out, plugged=plugged
    )


def _check_public(descriptor: Descriptor) -> None:
    """Refuse a descriptor that leads to a private network, where no HTTP client checks it."""
    parts = urlsplit(descriptor.selection)
    if parts.scheme in _WITH_HOST and parts.hostname:
        from medkit.sources.manners import Manners

        with suppress(OSError):  # of a name that is not known; connecting says so
            Manners(None).resolve(parts.hostname, parts.port or 0)


def list_known(words: str = "", plugin: str = "") -> Listing:
    """Return the known sources, or those that say some words; nothing is asked of a network."""
    plugged = _load(plugin)
    return search_descriptors(words, plugged) if words else list_descriptors(plugged)


def _load(plugin: str) -> Plugged:
    return load_plugin("source", plugin) if plugin else _NOTHING


def plan_source(
    descriptor: Descriptor,
    *,
    asked: str = "",
    plain: bool = False,
    leave_out: bool = False,
    plugged: Plugged = _NOTHING,
) -> Plan:
    """Return what a descriptor comes to, by the module that is called as its protocol.

    Parameters
    ----------
    descriptor : Descriptor
        Of the source.
    asked : str
        The address, if the user typed it.
    plain, leave_out : bool
        As of `Wish`.
    plugged : Plugged
        Whose protocols there are besides medkit's.
    """
    if descriptor.protocol in plugged.protocols:
        return plugged.protocols[descriptor.protocol](descriptor)
    if not asked:
        _check_public(descriptor)
    module = import_module(f"medkit.sources.{descriptor.protocol}")
    more: dict[str, Any] = {}
    if asked and descriptor.protocol in _ASKED:
        more |= {"asked": asked, "plain": plain}
    if leave_out and descriptor.protocol in _LISTING:
        more |= {"leave_out": True}
    plan: Plan = module.plan(descriptor, **more)
    return plan


def describe_target(target: str, **wishes: Any) -> Descriptor:
    """Return what is to be fetched, before a byte of it is moved.

    Parameters
    ----------
    target, **wishes
        As of `plan_target`.

    Raises
    ------
    UsageError
        If there is no such thing, or something is asked that does not fit it.
    """
    return _describe(target, Wish(**wishes), _NOTHING)


def _describe(target: str, wish: Wish, plugged: Plugged) -> Descriptor:
    if wish.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", wish.sha256):
        raise UsageError(f"{wish.sha256!r} is no SHA-256; it has 64 hexadecimal digits")
    wish = replace(wish, sha256=wish.sha256.lower())
    if service := _find_service(target):
        return _describe_service(service, target, wish)
    if descriptor := None if "://" in target else find_descriptor(target, plugged):
        return _complete(descriptor, wish)
    for option in ("where", "variant", "spacing", "own"):
        if getattr(wish, option):
            words = "from" if option == "own" else option
            raise UsageError(f"--{words} is for known sources; {target!r} is none")
    return _describe_plain(target, wish, plugged)


def _describe_plain(target: str, wish: Wish, plugged: Plugged) -> Descriptor:
    """Return an address, a folder or an archive that no descriptor describes."""
    licence = wish.licence or _UNSTATED
    if target.lower().startswith("file://"):
        target = url2pathname(urlsplit(target).path)
    if "://" in target:
        check_url(target, plain=wish.plain)
        return _describe_url(target, wish.name, wish.sha256, licence, wish.unchecked)
    if wish.unchecked:
        raise UsageError("--no-hash is for https addresses; others need no hash")
    path = Path(target)
    if path.is_dir():
        if wish.sha256:
            raise UsageError(f"{target} is a folder; --sha256 is for archives and addresses")
        return _describe_folder(path.resolve(), wish.name, licence)
    if path.is_file() and (name_whole(path.name) or detect_format(path)):
        return _describe_archive(path.resolve(), wish.name, wish.sha256, licence)
    known = ", ".join(source.name for source in list_descriptors(plugged).descriptors)
    raise UsageError(
        f"{target!r} is no known source, folder, archive (zip, tar, tar.gz), manifest (.tcia) or "
        f"address; known sources: {known}"
    )


# ---- Sources that say much of themselves ---------------------------------------------------------


def _find_service(target: str) -> str:
    """Return the module that knows a target's scheme; nothing where none does."""
    scheme, mark, _ = target.partition(":")
    if mark and (module := _SERVICES.get(scheme.lower())):
        return module
    return "tcia" if tcia.is_manifest(Path(target)) else ""


def _describe_service(service: str, target: str, wish: Wish) -> Descriptor:
    for option in ("sha256", "variant", "spacing", "own"):
        if getattr(wish, option):
            raise UsageError(f"--{'from' if option == 'own' else option} does not fit {target!r}")
    module = import_module(f"medkit.sources.{service}")
    selection = target.partition(":")[2] if target.lower().startswith(f"{service}:") else target
    # An address of DIMSE begins with the name of its module, too.
    described: Descriptor = module.describe(
        target if selection.startswith("//") else selection, wish.where
    )
    name = _choose_name(wish.name, described.name)
    return replace(described, name=name, licence=wish.licence or described.licence)


def _complete(descriptor: Descriptor, wish: Wish) -> Descriptor:
    """Return a descriptor with what the user chose of it."""
    if descriptor.access == "withdrawn":
        raise UsageError(
            f"{descriptor.name} is to be had no more. {descriptor.notes} "
            f"Instead: {', '.join(descriptor.instead)}"
        )
    if wish.licence or (wish.sha256 and not wish.own):
        raise UsageError(f"{descriptor.name} states its own licence and hashes; leave yours out")
    chosen = choose_variant(descriptor, wish.variant)
    if wish.own or descriptor.protocol == "own":
        chosen = _hand_over(chosen, wish)
    elif wish.where:
        chosen = replace(chosen, where=_join(chosen, wish.where))
    chosen = set_spacing(chosen, _read_spacing(wish.spacing))
    return replace(chosen, name=_choose_name(wish.name, chosen.name))


def _hand_over(descriptor: Descriptor, wish: Wish) -> Descriptor:
    """Return a source that the user has got, with what is known of it."""
    if descriptor.protocol != "own":
        raise UsageError(f"{descriptor.name} can be fetched; leave --from out")
    if not wish.own:
        raise UsageError(
            f"nothing can fetch {descriptor.name} but you; give what you have with --from. "
            f"{descriptor.notes} Its page: {descriptor.homepage}"
        )
    path = Path(wish.own)
    if path.is_file() and not name_whole(path.name) and not detect_format(path):
        path = path.resolve()
        file = SourceFile(path.as_uri(), wish.sha256, path.stat().st_size, unpack=False)
        found = replace(_describe_folder(path, "own", _UNSTATED), path="", files=(file,))
    else:
        found = _describe_plain(wish.own, replace(wish, name="own", licence=""), _NOTHING)
    return replace(
        descriptor,
        title=f"{descriptor.title}; {found.title}",
        protocol=found.protocol,
        path=found.path,
        files=found.files,
        size_bytes=found.size_bytes,
    )


def _join(descriptor: Descriptor, where: str) -> str:
    if not descriptor.selection:
        raise UsageError(f"{descriptor.name} has no parts to choose by --where")
    if not descriptor.where:
        return where
    if descriptor.protocol != "idc":
        raise UsageError(f"{descriptor.name} is a choice already: {descriptor.where}")
    return f"({descriptor.where}\n) AND ({where}\n)"


def _read_spacing(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"--spacing is {text!r}; give three numbers of mm, as in 1.1,1.1,1.4"
        ) from None


# ---- What says nothing of itself -----------------------------------------------------------------


def _describe_url(url: str, name: str, sha256: str, licence: str, unchecked: bool) -> Descriptor:
    if bool(sha256) == unchecked:
        raise UsageError(
            "a download needs the SHA-256 that its publisher states (--sha256), or --no-hash "
            "to take it unchecked: one of the two"
        )
    return Descriptor(
        name=_choose_name(name, stem_of(name_of_url(url))),
        title=hide_query(url),
        version=_UNSTATED,
        licence=licence,
        protocol="https",
        files=(SourceFile(url, sha256),),
    )


def _describe_folder(path: Path, name: str, licence: str) -> Descriptor:
    return Descriptor(
        name=_choose_name(name, path.name),
        title=f"the folder {path}",
        version=_UNSTATED,
        licence=licence,
        protocol="local",
        path=str(path),
    )


def _describe_archive(path: Path, name: str, sha256: str, licence: str) -> Descriptor:
    parts = find_siblings(path) if name_whole(path.name) else [path]
    if sha256 and len(parts) > 1:
        raise UsageError(f"{path} is one of {len(parts)} parts; --sha256 is for whole archives")
    files = tuple(SourceFile(part.as_uri(), sha256, part.stat().st_size) for part in parts)
    return Descriptor(
        name=_choose_name(name, stem_of(name_whole(path.name) or path.name)),
        title=f"the archive {path}",
        version=_UNSTATED,
        licence=licence,
        protocol="local",
        size_bytes=sum(file.size or 0 for file in files),
        files=files,
    )


def _choose_name(asked: str, found: str) -> str:
    try:
        return check_name(asked or found)
    except UsageError as error:
        raise UsageError(f"{error}; choose one with --name") from None
