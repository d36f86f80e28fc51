"""Loading one plugin, and no other: the only user of pluggy's PluginManager."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medkit.errors import PluginError
from medkit.plugins.contracts import lift
from medkit.plugins.entries import KINDS, Plugin, find_plugin

if TYPE_CHECKING:
    from medkit.training.contract import Trainer


def load_plugin(kind: str, name: str) -> Any:
    """Import the plugin of that kind and name, and return what its hook gives.

    Of a hook that takes arguments it is the hook itself, to be called with them by name. Of an
    isolated trainer it is a stand-in, and nothing of the plugin is imported here: see
    `medkit.plugins.standins`.

    Raises
    ------
    UsageError
        If no plugin has that name.
    PluginError
        If the plugin cannot be imported, implements a hook that does not exist, or gives
        something that is not of its kind. The message names distribution and version.
    """
    entry = find_plugin(kind, name)
    if entry.home is not None:
        from medkit.plugins.standins import stand_in

        return stand_in(entry, entry.home)
    given = lift(entry, _call_hook(entry))
    if wrong := _CHECKS.get(kind, _accept)(given):
        raise PluginError(f"the plugin {name!r} ({entry.origin}) {wrong}")
    return given


def load_trainer(name: str) -> type[Trainer]:
    """Import the trainer of that name, and no other, and return its class: see `load_plugin`."""
    return load_plugin("trainer", name)  # type: ignore[no-any-return]


def _call_hook(entry: Plugin) -> Any:
    import pluggy

    from medkit import hookspecs

    try:
        manager = pluggy.PluginManager("medkit")
        manager.add_hookspecs(hookspecs)
        manager.load_setuptools_entrypoints(entry.group, name=entry.name)
        manager.check_pending()
        hook = getattr(manager.hook, KINDS[entry.kind].hook)
        return hook if hook.spec.argnames else hook()
    except Exception as error:  # whatever a plugin raises while it loads is the plugin's fault
        raise PluginError(
            f"the plugin {entry.name!r} ({entry.origin}) does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_trainer(given: Any) -> str:
    own = ("features", "feature_spec") if getattr(given, "head", "") else ("fit", "load")
    missing = [part for part in ("Params", "tasks", *own) if not hasattr(given, part)]
    return f"is not a trainer: it gave {given!r}, which lacks {', '.join(missing)}" * bool(missing)


def _check_sources(given: Any) -> str:
    if hasattr(given, "folder") and hasattr(given, "protocols"):
        return ""
    wanted = "medkit.sources.descriptor.Plugged is wanted"
    return f"adds no sources: it gave {given!r}, and {wanted}"


def _accept(given: Any) -> str:
    return ""


# What is wrong with what a hook gave, in words; what uses the other kinds looks at it itself.
_CHECKS: dict[str, Callable[[Any], str]] = {"trainer": _check_trainer, "source": _check_sources}
