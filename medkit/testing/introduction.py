"""A trainer before it is given an image: what loading it costs, and what its options are.

``python -m medkit.testing.introduction NAME OPTIONS`` loads the plugin in this process and prints
what was found as one line of JSON. OPTIONS is a JSON object of texts, as ``-p`` takes them.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from medkit import hookspecs  # noqa: F401 - the host's own, so that it does not count
from medkit.errors import MedkitError
from medkit.plugins import load_trainer
from medkit.training.params import list_options, parse_options, restore_params

HEAVY = frozenset({
    "cv2", "fastai", "jax", "keras", "lightgbm", "matplotlib", "monai", "pandas", "scipy",
    "SimpleITK", "skimage", "sklearn", "tensorflow", "timm", "torch", "torchvision",
    "transformers", "xgboost",
})  # fmt: skip
TASKS = frozenset({"multiclass", "multilabel"})
_UNKNOWN = "no_such_option"


def introduce(name: str, given: dict[str, str]) -> dict[str, Any]:
    """Load a trainer and describe it; what it prints meanwhile is kept from standard output."""
    before, printed = set(sys.modules), io.StringIO()
    with redirect_stdout(printed):
        trainer = load_trainer(name)
    loaded = set(sys.modules) - before
    params, problems = _read_params(trainer.Params, given)
    return {
        "heavy": sorted(HEAVY & loaded),
        "modules": len(loaded),
        "printed": printed.getvalue(),
        "problems": problems + list_problems(trainer.Params, params),
        "params": None if params is None else json.loads(json.dumps(asdict(params))),
        "options": [] if problems else [option.name for option in list_options(trainer.Params)],
        **({} if params is None else _describe_instance(trainer(params))),
    }


def _describe_instance(trainer: Any) -> dict[str, Any]:
    from medkit.training.head import is_linear, read_spec

    return {
        "linear": is_linear(trainer),
        "spec": read_spec(trainer),
        "tasks": sorted(trainer.tasks),
        "resume_tolerance": float(getattr(trainer, "resume_tolerance", 0.0)),
    }


def _read_params(params: Any, given: dict[str, str]) -> tuple[Any, list[str]]:
    if not (isinstance(params, type) and is_dataclass(params)):
        return None, [f"Params is {params!r}; it must be a dataclass"]
    try:
        return parse_options(params, given), []
    except MedkitError as error:
        return None, [str(error)]


def list_problems(params: type[Any], instance: Any) -> list[str]:
    """Return a sentence for each thing that is wrong with the options of a trainer."""
    if instance is None:
        return []
    problems = [
        f"the field {one.name!r} is not documented; write "
        f'{one.name}: ... = option(default, "what it does")'
        for one in list_options(params)
        if not one.help.strip()
    ]
    problems += [
        f"the field {one.name!r} has no default"
        for one in list_options(params)
        if one.default is None
    ]
    if not params.__dataclass_params__.frozen:
        problems.append("the dataclass is not frozen; write @dataclass(frozen=True)")
    if not _refuses(params):
        problems.append("an option with an unknown name is not refused")
    stored = json.loads(
        json.dumps({one.name: getattr(instance, one.name) for one in fields(params)})
    )
    if restore_params(params, stored) != instance:
        problems.append("options that were kept as JSON are not read back as they were")
    return problems


def _refuses(params: type[Any]) -> bool:
    try:
        restore_params(params, {_UNKNOWN: 1})
    except MedkitError:
        return True
    return False


def main(name: str, given: dict[str, str]) -> dict[str, Any]:
    """Return what `introduce` does, or why it does not."""
    try:
        return introduce(name, given)
    except Exception as error:  # whatever a plugin raises is what was found
        known = isinstance(error, MedkitError)
        return {"error": str(error) if known else f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
