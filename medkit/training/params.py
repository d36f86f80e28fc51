"""Options of a trainer: ``-p key=value`` read against the typed fields of its Params dataclass.

The type of a field says how a value is written, and `option` within what limits it lies. Both stand
in the help and in the error that answers a bad value. What depends on several fields is the
dataclass's own to check, in ``__post_init__``, with a ValueError that begins with ``name=value:``.
"""

from __future__ import annotations

import difflib
import math
import operator
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medkit.errors import MedkitError, PluginError, UsageError


@dataclass(frozen=True)
class Option:
    """One option of a trainer.

    Attributes
    ----------
    name : str
        As given to ``-p``.
    takes : str
        What a value looks like, in words.
    default : str or None
        Spelled as ``-p`` would read it; None if the option must be given.
    help : str
        The trainer's words, as given to `option`.
    """

    name: str
    takes: str
    default: str | None
    help: str


@dataclass(frozen=True)
class _Kind:
    """How values of one type are read; ``read`` raises ValueError."""

    takes: str
    read: Callable[[str], Any]


# How far a number may go: (words, test) by the name that `option` gives the limit.
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("{} or more", operator.ge),
    "above": ("above {}", operator.gt),
    "most": ("{} or less", operator.le),
    "below": ("below {}", operator.lt),
}


def option(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Return a field of a Params dataclass.

    Parameters
    ----------
    default : object
        The value where none is given; ``dataclasses.MISSING`` makes the option required.
    text : str
        What it does, for the help.
    least, above, most, below : float, optional
        Limits of a number, and of each number of a tuple; ``None`` and texts have none.
    check : callable, optional
        Takes the value, and raises ValueError or a `MedkitError` that says what would work.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    kept = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"help": text, "limits": kept, "check": check})


def refuse_idle(params: Any, names: Collection[str], advice: str) -> None:
    """Refuse options that would have no effect beside the others, for a ``__post_init__``.

    Parameters
    ----------
    params : instance of a Params dataclass
        As it was given.
    names : collection of str
        The options without effect.
    advice : str
        What would work.

    Raises
    ------
    ValueError
        If one of them is not its default.
    """
    for one in fields(params):
        value = getattr(params, one.name)
        if one.name in names and value != _default(one):
            raise ValueError(f"{one.name}={_spell(value)}: {advice}")


def list_options(params: type) -> list[Option]:
    """Return the options of a Params dataclass, in its order.

    Raises
    ------
    PluginError
        If it is no dataclass, or a field has a type that no text can be read as.
    """
    kinds = _find_kinds(params)
    return [
        Option(field.name, kinds[field.name].takes, _spell_default(field), _help_of(field))
        for field in fields(params)
    ]


def assign_options(given: Sequence[str], plugins: Mapping[str, type]) -> dict[str, dict[str, str]]:
    """Sort ``key=value`` and ``plugin.key=value`` texts by the plugin they are for.

    Parameters
    ----------
    given : sequence of str
        As typed after ``-p``. A bare key goes to every plugin that has it.
    plugins : mapping of str to type
        Names of the trainers that will run, and their Params.

    Returns
    -------
    dict
        For each plugin, key and text; what `parse_options` takes.

    Raises
    ------
    UsageError
        If a text has no ``=``, no plugin has the key, or a key is given twice for one plugin.
    """
    assigned: dict[str, dict[str, str]] = {plugin: {} for plugin in plugins}
    for text in given:
        key, value = _split(text)
        for plugin, name in _address(key, plugins):
            if name in assigned[plugin]:
                raise UsageError(
                    f"-p {name} is given twice for the plugin {plugin!r}; give it once"
                )
            assigned[plugin][name] = value
    return assigned


def split_options(given: Sequence[str]) -> dict[str, str]:
    """Return keys and texts of ``key=value`` texts that are all for one trainer.

    Raises
    ------
    UsageError
        If a text has no ``=``, or a key is given twice.
    """
    pairs = [_split(text) for text in given]
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), ""):
        raise UsageError(f"-p {twice} is given twice; give it once")
    return dict(pairs)


def parse_options(params: type, given: Mapping[str, str]) -> Any:
    """Return an instance of a Params dataclass from texts; fields not given keep their default.

    Raises
    ------
    UsageError
        If a key is unknown, a value cannot be read or is out of its limits, a required option is
        missing, or the dataclass itself refuses the values with a ValueError.
    """
    kinds = _find_kinds(params)
    for key in given:
        if key not in kinds:
            raise UsageError(f"-p {key}: there is no such option; {_advise(key, kinds)}")
    missing = [name for name in _required(params) if name not in given]
    if missing:
        raise UsageError(f"-p {missing[0]}=... must be given: {kinds[missing[0]].takes}")
    values = {key: _read(key, kinds[key], text) for key, text in given.items()}
    for one in fields(params):
        if one.name in values and (check := one.metadata.get("check")):
            _check(one.name, values[one.name], check)
    return _build(params, values)


def restore_params(params: type, stored: Mapping[str, Any]) -> Any:
    """Return the instance that was stored as JSON, where a tuple became a list."""
    return _build(
        params,
        {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()},
    )


def _build(params: type, values: Mapping[str, Any]) -> Any:
    try:
        return params(**values)
    except (TypeError, ValueError) as error:
        name, equals, _ = str(error).partition("=")
        if equals and name in _find_kinds(params):
            raise UsageError(f"-p {error}") from None
        given = " ".join(f"-p {name}={_spell(value)}" for name, value in values.items())
        raise UsageError(f"{given or 'the default options'}: {error}") from None


def _check(name: str, value: Any, check: Callable[[Any], object]) -> None:
    try:
        check(value)
    except (ValueError, MedkitError) as error:
        raise UsageError(f"-p {name}={_spell(value)}: {error}") from None


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"-p {text!r} has no '='; write -p name=value, such as -p size=64")
    return key, value


def _address(key: str, plugins: Mapping[str, type]) -> list[tuple[str, str]]:
    """Return the (plugin, option) pairs that a key means."""
    known = {plugin: set(_find_kinds(params)) for plugin, params in plugins.items()}
    plugin, dot, name = key.partition(".")
    if not dot:
        plugin, name = "", key
    elif plugin not in plugins:
        raise UsageError(f"-p {key}: no plugin {plugin!r} runs here; running: {', '.join(plugins)}")
    found = [(each, name) for each in plugins if plugin in ("", each) and name in known[each]]
    if not found:
        candidates = known[plugin] if plugin else set[str]().union(*known.values())
        raise UsageError(f"-p {key}: there is no such option; {_advise(name, candidates)}")
    return found


def _advise(key: str, known: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {close[0]!r}? " if close else ""
    return f"{advice}known: {', '.join(sorted(known)) or 'none'}"


def _read(key: str, kind: _Kind, text: str) -> Any:
    try:
        return kind.read(text)
    except ValueError:
        raise UsageError(f"-p {key}={text}: give {kind.takes}") from None


def _find_kinds(params: type) -> dict[str, _Kind]:
    try:
        hints = get_type_hints(params)
        return {
            one.name: _find_kind(hints[one.name], one.metadata.get("limits", {}))
            for one in fields(params)
        }
    except (TypeError, NameError) as error:
        raise PluginError(f"the options of {params!r} cannot be read: {error}") from None


def _find_kind(hint: Any, limits: Mapping[str, Any]) -> _Kind:
    if isinstance(hint, type) and hint in _PLAIN:
        kind = _PLAIN[hint]
        return _limit(kind, limits) if hint in (int, float) and limits else kind
    build = _NESTED.get(get_origin(hint))
    if build is None:
        raise TypeError(f"{hint!r} is none of the types an option can have")
    return build(get_args(hint), limits)


def _limit(kind: _Kind, limits: Mapping[str, Any]) -> _Kind:
    words = " and ".join(_LIMITS[name][0].format(limit) for name, limit in limits.items())

    def read(text: str) -> Any:
        value = kind.read(text)
        if not all(_LIMITS[name][1](value, limit) for name, limit in limits.items()):
            raise ValueError
        return value

    return _Kind(f"{kind.takes}, {words}", read)


def _choice(choices: tuple[Any, ...], _: Mapping[str, Any]) -> _Kind:
    spelled = {_spell(choice): choice for choice in choices}

    def read(text: str) -> Any:
        if text not in spelled:
            raise ValueError
        return spelled[text]

    return _Kind(f"one of {', '.join(spelled)}", read)


def _either(members: tuple[Any, ...], limits: Mapping[str, Any]) -> _Kind:
    # None is tried first, so that "none" is not taken as text by `str | None`.
    ordered = sorted(members, key=lambda member: member is not _NONE)
    kinds = [_find_kind(member, limits) for member in ordered]

    def read(text: str) -> Any:
        for kind in kinds:
            try:
                return kind.read(text)
            except ValueError:
                continue
        raise ValueError

    return _Kind(" or ".join(kind.takes for kind in kinds), read)


def _sequence(members: tuple[Any, ...], limits: Mapping[str, Any]) -> _Kind:
    """``tuple[int, ...]`` is any number of values, ``tuple[int, int]`` exactly two."""
    free = members[-1] is Ellipsis
    kinds = [_find_kind(member, limits) for member in members if member is not Ellipsis]

    def read(text: str) -> tuple[Any, ...]:
        texts = [part.strip() for part in text.split(",")] if text.strip() else []
        if not free and len(texts) != len(kinds):
            raise ValueError
        return tuple(
            kind.read(part)
            for kind, part in zip(kinds * len(texts) if free else kinds, texts, strict=False)
        )

    many = "any number of values" if free else f"{len(kinds)} values"
    return _Kind(f"{many} with commas between, each {kinds[0].takes}", read)


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _read_switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError
    return _SWITCH[text.lower()]


def _read_none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


_NONE = type(None)
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_PLAIN: dict[type, _Kind] = {
    int: _Kind("an integer", int),
    float: _Kind("a number", _read_number),
    bool: _Kind("true or false", _read_switch),
    str: _Kind("text", str),
    _NONE: _Kind("none", _read_none),
}
_NESTED: dict[Any, Callable[[tuple[Any, ...], Mapping[str, Any]], _Kind]] = {
    Literal: _choice,
    Union: _either,
    types.UnionType: _either,
    tuple: _sequence,
}


def _required(params: type) -> list[str]:
    return [field.name for field in fields(params) if _default(field) is MISSING]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _spell_default(field: Field[Any]) -> str | None:
    default = _default(field)
    return None if default is MISSING else _spell(default)


def _spell(value: Any) -> str:
    """Return a value as `parse_options` reads it."""
    if isinstance(value, tuple):
        return ",".join(_spell(member) for member in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _help_of(field: Field[Any]) -> str:
    return str(field.metadata.get("help", ""))
