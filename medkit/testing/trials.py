"""Trials of a trainer: children that do what the host has children do, and what came of each.

A trial is made when a check first asks for it, and kept: a check that is asked for alone makes
what it needs and no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medkit.plugins import find_plugin
from medkit.testing.material import CLASSES, Material, Parts, make_material
from medkit.testing.probe import NOTES, PRINTED, Orders
from medkit.testing.watching import Watch, run_marked
from medkit.training.child import Event
from medkit.training.environment import choose_environment
from medkit.training.head import FoldTask, solve_fold
from medkit.training.job import Job, fold_folder, write_parts
from medkit.workspace import remove_folder

# The folds of the kit's own set: which quarter of the persons is tested on, and what is special.
WHOLE, OTHER, LACKING, UNCHOSEN, SEVERAL = range(5)
_FOLDS: tuple[dict[str, Any], ...] = (
    {"quarter": 0},
    {"quarter": 1},
    {"quarter": 2, "lacking": 1},
    {"quarter": 3, "validate": False},
    {"quarter": 0, "several": True},
)

SEED = 7
_INTRODUCTION = "medkit.testing.introduction"
# Where libraries keep what they need again; a trainer finds it there, and may write to it.
_STORES = {
    "HF_HOME": ".cache/huggingface",
    "KERAS_HOME": ".keras",
    "MPLCONFIGDIR": ".config/matplotlib",
    "TORCH_HOME": ".cache/torch",
}


@dataclass(frozen=True)
class Trial:
    """What came of one.

    Attributes
    ----------
    folder : Path
        Of the job.
    errors : dict of int or None to str
        Why a fold was not finished; under None, why none was begun.
    notes : list of dict
        What `medkit.testing.probe` saw.
    strays : list of str
        Files that were left in the home folder, in that of temporary files, or where it stood.
    left : list of str
        Processes that went on when the child had ended.
    lingered : float
        Seconds from the stop that was asked for to the end of the child; 0 where none was.
    late : bool
        True if the child was killed because it did not end in time.
    """

    folder: Path
    errors: dict[int | None, str] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    lingered: float = 0.0
    late: bool = False

    def find(self, what: str, **facts: Any) -> list[dict[str, Any]]:
        """Return the notes of a name that say so."""
        return [
            note
            for note in self.notes
            if note["note"] == what and all(note.get(key) == facts[key] for key in facts)
        ]

    @property
    def printed(self) -> str:
        """What was printed on standard output."""
        path = self.folder / PRINTED
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def predictions(self, fold: int) -> np.ndarray[Any, Any]:
        """Return the probabilities of a fold that was fitted, as they lie on disk."""
        loaded: np.ndarray[Any, Any] = np.load(
            fold_folder(self.folder, fold) / "predictions.npy", allow_pickle=False
        )
        return loaded


@dataclass
class Trials:
    """All trials of one trainer.

    Parameters
    ----------
    plugin : str
        The trainer's name.
    given : mapping of str to str
        Its options, as text.
    folder : Path
        Where to work; an existing one.
    seconds : float
        How long one fold may take.
    material : tuple of Material, optional
        Grey images and some in colour; made when they are first needed.
    """

    plugin: str
    given: Mapping[str, str]
    folder: Path
    seconds: float = 120.0
    material: tuple[Material, Material] | None = None

    @property
    def grey(self) -> Material:
        """The grey images."""
        self.material = self.material or make_material(self.folder / "material")
        return self.material[0]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `medkit.testing.introduction` says of the trainer; ``error`` if it does not load."""
        scratch = self._scratch("introduction")
        command = [self._environment.python, "-P", "-m", _INTRODUCTION, self.plugin]
        answer, ended = run_marked(
            [*command, json.dumps(dict(self.given))],
            self._variables("introduction"),
            scratch / "cwd",
            self.seconds,
        )
        try:
            return dict(json.loads(answer.splitlines()[-1]))
        except (IndexError, ValueError, TypeError):
            return {"error": f"the process that loads it {ended}"}

    @property
    def several(self) -> bool:
        """Whether the trainer is only for several labels an image."""
        return "multiclass" not in self.about["tasks"]

    @cached_property
    def whole(self) -> Trial:
        """Every kind of fold, fitted one after the other and tested."""
        folds = [WHOLE, OTHER, LACKING, UNCHOSEN]
        return self._fit("whole", folds + [SEVERAL] * ("multilabel" in self.about["tasks"]))

    @cached_property
    def again(self) -> Trial:
        """Two of them in the other order, in another process, with features computed anew."""
        return self._fit("again", (OTHER, WHOLE), store="again")

    @cached_property
    def colour(self) -> Trial:
        """A fold of images in colour."""
        return self._fit("colour", (WHOLE,), colour=True)

    @cached_property
    def killed(self) -> Trial:
        """A fold whose fit was killed in the middle, with what it left."""
        return self._fit("killed", (WHOLE,), kill_at=self._find_middle())

    @cached_property
    def resumed(self) -> Trial:
        """The same fold, when the same is asked again."""
        _ = self.killed
        return self._fit("killed", (WHOLE,))

    @cached_property
    def stopped(self) -> Trial:
        """A fold that the user stopped in the middle."""
        return self._fit("stopped", (WHOLE,), stop_at=self._find_middle())

    @cached_property
    def reread(self) -> Trial:
        """The model of the first fold in a new process: predictions, and rows asked for apart."""
        return self._predict("reread", self._tested(), examine="rows")

    @cached_property
    def weighed(self) -> Trial:
        """The memory that predicting takes, for few images and for many."""
        return self._predict("weighed", self._tested(), examine="memory")

    def divide(self, fold: int, colour: bool = False) -> Parts:
        """Return the parts of a fold, of the grey images or of those in colour."""
        material = self._choose(colour)
        return material.divide(**{"several": self.several, **_FOLDS[fold]})

    def _choose(self, colour: bool) -> Material:
        grey = self.grey
        return self.material[1] if colour and self.material else grey

    def _tested(self) -> Any:
        return self.divide(WHOLE)["test"]["images"]

    def _find_middle(self) -> int:
        """Return a report in the middle of a fit, where there is a checkpoint if there ever is."""
        reports = self.whole.find("report")
        kinds = [note["kind"] for note in reports]
        fit = reports[: kinds.index("returned") + 1] if "returned" in kinds else reports
        kept = [note["number"] for note in fit if note["kept"]]
        numbers = kept or [note["number"] for note in fit]
        return int(numbers[(len(numbers) - 1) // 2]) if numbers else 0

    def _fit(
        self,
        name: str,
        folds: Sequence[int],
        colour: bool = False,
        store: str = "features",
        **orders: Any,
    ) -> Trial:
        folder = self.folder / name
        job = self._plan("features" if self.about["linear"] else "fit", store)
        job.write(folder, self._choose(colour).images)
        for fold in folds:
            write_parts(fold_folder(folder, fold), self.divide(fold, colour))
        if self.about["linear"]:
            return self._solve(name, folds, orders)
        return self._follow(name, folds, orders)

    def _solve(self, name: str, folds: Sequence[int], orders: Mapping[str, Any]) -> Trial:
        """Have the features computed by a child, and solve the folds as the host does."""
        opened: list[Event] = []
        trial = self._follow(name, (), orders, opened.append)
        found = next((one["features"] for one in opened if one["event"] == "opened"), None)
        if trial.errors or found is None:
            return trial
        for fold in folds:
            solved = solve_fold(FoldTask(trial.folder, fold, found["key"], found["spec"]))
            if solved.error:
                trial.errors[fold] = solved.error
        return trial

    def _predict(self, name: str, images: np.ndarray[Any, Any], examine: str) -> Trial:
        model = fold_folder(self.whole.folder, WHOLE)
        job = self._plan("predict", name, [str(model)])
        job.write(self.folder / name, images)
        return self._follow(name, (0,), {"examine": examine})

    def _plan(self, task: str, store: str, models: Sequence[str] = ()) -> Job:
        entry = find_plugin("trainer", self.plugin)
        return Job(
            task=task,
            plugin=entry.name,
            distribution=entry.distribution,
            version=entry.version,
            params=self.about["params"],
            set_folder=str(self.grey.folder),
            feature_store=str(self.folder / f"store-{store}"),
            classes=list(CLASSES),
            seed=SEED,
            environment=self._environment.describe(),
            models=list(models),
        )

    def _follow(
        self,
        name: str,
        steps: Sequence[int],
        orders: Mapping[str, Any],
        handle: Callable[[Event], None] = lambda event: None,
    ) -> Trial:
        scratch, folder = self._scratch(name), self.folder / name
        allowed = (str(scratch / "tmp"), *self._stores.values())
        Orders(str(scratch / "cwd"), allowed, **orders).write(folder)
        (folder / NOTES).unlink(missing_ok=True)
        watch = Watch(folder, self._variables(name), self.seconds, self._environment.python)
        watch.follow(steps, handle, vital=(WHOLE, OTHER))
        return Trial(
            folder,
            watch.errors,
            _read_notes(folder),
            _list_files(scratch),
            watch.left,
            watch.lingered,
            watch.late,
        )

    @cached_property
    def _environment(self) -> Any:
        return choose_environment("cpu", min(2, os.cpu_count() or 1), plugin=self.plugin)

    @cached_property
    def _stores(self) -> dict[str, str]:
        from medkit.training.weights import FOLDER, store_folder

        home = Path.home()
        places = {name: os.environ.get(name, str(home / at)) for name, at in _STORES.items()}
        return {**places, FOLDER: str(store_folder())}

    def _scratch(self, name: str) -> Path:
        """Return a folder with an empty home, an empty folder for temporary files, and one more."""
        scratch = self.folder / f"{name}-scratch"
        remove_folder(scratch)
        for place in ("home", "tmp", "cwd"):
            (scratch / place).mkdir(parents=True)
        return scratch

    def _variables(self, name: str) -> dict[str, str]:
        scratch = self.folder / f"{name}-scratch"
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch / "tmp"))
        homes = dict.fromkeys(("HOME", "USERPROFILE"), str(scratch / "home"))
        return {**self._environment.variables(), **self._stores, **temporary, **homes}


def _read_notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / NOTES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _list_files(scratch: Path) -> list[str]:
    return sorted(str(path) for path in scratch.rglob("*") if not path.is_dir())
