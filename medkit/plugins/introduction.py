"""What the host asks of a trainer before anything is fitted, in the trainer's own environment.

``python -m medkit.plugins.introduction KIND NAME [PARAMS]`` loads that plugin in this process and
prints one line of JSON. Without PARAMS, a JSON object, it tells what the class says; with them
what an instance does, or why it refuses them.
"""

from __future__ import annotations

import json
import sys
import types
from contextlib import redirect_stdout
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medkit.errors import MedkitError

PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "none": type(None)}
_NAMES = {kind: name for name, kind in PLAIN.items()}


def main(kind: str, name: str, params: str | None = None) -> dict[str, Any]:
    """Load a plugin and describe it; what it prints meanwhile goes to the log."""
    from medkit.plugins.loading import load_plugin

    try:
        loaded = load_plugin(kind, name)
        if kind != "trainer":
            return {}
        return _describe(loaded) if params is None else _try(loaded, json.loads(params))
    except Exception as error:  # whatever a plugin raises is its answer
        known = isinstance(error, MedkitError)
        return {"error": str(error) if known else f"{type(error).__name__}: {error}"}


def _describe(trainer: Any) -> dict[str, Any]:
    hints = get_type_hints(trainer.Params)
    return {
        "fields": [_describe_field(one, hints[one.name]) for one in fields(trainer.Params)],
        "tasks": sorted(trainer.tasks) if isinstance(trainer.tasks, frozenset | set) else [],
        "head": _read_head(trainer),
    }


def _describe_field(one: Field[Any], hint: Any) -> dict[str, Any]:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    required = {} if default is MISSING else {"default": default}
    said = {key: one.metadata[key] for key in ("help", "limits") if key in one.metadata}
    return {"name": one.name, "type": describe_type(hint), "said": said, **required}


def _try(trainer: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Make an instance; what is wrong with the options is told as `Params` would tell it."""
    values = {key: tuple(one) if isinstance(one, list) else one for key, one in params.items()}
    try:
        for one in fields(trainer.Params):
            if check := one.metadata.get("check"):
                _check(one.name, values[one.name], check)
        made = trainer(trainer.Params(**values))
    except (ValueError, MedkitError) as error:
        return {"refused": str(error)}
    return {"tasks": sorted(made.tasks), "head": _read_head(made)}


def _check(name: str, value: Any, check: Any) -> None:
    try:
        check(value)
    except (ValueError, MedkitError) as error:
        raise ValueError(f"{name}={value}: {error}") from None


def _read_head(trainer: Any) -> str:
    head = getattr(trainer, "head", "")
    return head if isinstance(head, str) else ""


def describe_type(hint: Any) -> Any:
    """Return a type of an option as JSON: a name, or what it is made of.

    Raises
    ------
    TypeError
        If no option can have such a type.
    """
    if hint in _NAMES:
        return _NAMES[hint]
    inner, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return {"literal": list(inner)}
    if origin in (Union, types.UnionType):
        return {"union": [describe_type(one) for one in inner]}
    if origin is tuple:
        return {"tuple": ["..." if one is Ellipsis else describe_type(one) for one in inner]}
    raise TypeError(f"{hint!r} is none of the types an option can have")


def restore_type(said: Any) -> Any:
    """Return the type that `describe_type` described."""
    if isinstance(said, str):
        return PLAIN[said]
    ((origin, inner),) = said.items()
    if origin == "literal":
        return Literal[tuple(inner)]
    if origin == "union":
        return Union[tuple(restore_type(one) for one in inner)]  # noqa: UP007 - made at run time
    return tuple[tuple(... if one == "..." else restore_type(one) for one in inner)]  # type: ignore[misc]


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        answer = main(*sys.argv[1:])
    print("\n" + json.dumps(answer), flush=True)
