"""What a trainer plugin provides, and what it is given.

The host owns persons, folds, metrics, thresholds and the report. A trainer gets images and labels
of the training part, and images alone of the test part; it never sees a test label. Importing
this module imports NumPy and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError

if TYPE_CHECKING:
    from medkit.images.reader import Images


# What a fit may tell of itself while it goes on.
FACTS = frozenset({"epoch", "epochs", "loss", "validation_loss", "images_per_second", "batch_size"})


@runtime_checkable
class Model(Protocol):
    """What a trainer returns.

    Some members are optional. Two together make it possible to export the model: ``network``, a
    ``keras.Model`` in float32 from pixels (n, H, W, C) to probabilities (n, classes), and
    ``view``, the keywords of ``images.with_view`` for these pixels. With them a report also checks
    its maps against a model that has learned nothing, and draws exact ones where the network ends
    in a dense layer on averaged maps. Of other models ``explain(images)`` is asked for maps
    (n, H, W), over the whole of each image: above 0 what speaks for the class that is predicted,
    below 0 what speaks against it. Where there is no such member, the host covers parts of them.
    """

    def predict_proba(self, images: Images) -> npt.NDArray[np.floating[Any]]:
        """Return an array (n, classes), columns in the order of ``classes``.

        Rows sum to 1 for multiclass; for multilabel each column is a probability of its own.
        Where the trainer has features, ``images.features`` holds theirs, a row an image.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the model into an existing, empty folder; `Trainer.load` reads it back."""
        ...


class Trainer(Protocol):
    """What a plugin provides: a class with these members.

    Some members are optional. ``features(images, run)`` returns an array (n, d) of float32 in
    which row i depends on image i alone; the host computes it once for all folds and keeps it by
    content, so a trainer that has it also has ``feature_spec()``: a JSON-able mapping of all that
    the features depend on besides the pixels (layer, hash of the weights; under ``"view"`` the
    keywords that ``images.with_view`` is called with). ``head = "linear"`` leaves ``fit`` and
    ``load`` to the host, which solves a multinomial logistic regression on the features, or of
    several labels an image a logistic regression each. Both may
    follow from the options, because the host asks an instance: ``head`` may be a property, and
    ``feature_spec()`` returns None where ``features`` is not to be called.
    ``weights_used``, set once features or a fit are there, is a mapping that tells of pretrained
    weights: ``name``, ``sha256`` and ``pretrained``; the report warns where the last is false.
    ``resume_tolerance`` says by how much a probability may differ where a fit was killed and went
    on; by default by nothing (see docs/conformance.md).
    ``feature_network()`` makes a trainer with ``head = "linear"`` one that can be exported: a
    ``keras.Model`` from pixels of the view (n, H, W, C) to the features (n, d).

    Attributes
    ----------
    Params : type
        A frozen dataclass; its typed fields are the ``-p`` options, documented by
        ``metadata={"help": ...}``.
    tasks : frozenset of str
        Of ``"multiclass"`` and ``"multilabel"``. Where it follows from the options, the class has
        all that there are, and an instance its own.
    """

    Params: ClassVar[type]
    tasks: ClassVar[frozenset[str]]

    def __init__(self, params: Any) -> None: ...

    def fit(self, train: LabelledImages, validation: LabelledImages, run: RunContext) -> Model:
        """Train on ``train``, choose by ``validation``, and return a model.

        What it writes goes into the folder of ``run``, and what is random follows from its seed.
        """
        ...

    def load(self, folder: Path) -> Model:
        """Return the model that was saved in a folder."""
        ...


@dataclass(frozen=True)
class LabelledImages:
    """Images with what is known of them.

    Attributes
    ----------
    images : Images
        Lazy pixels: ``images[3]`` is an array (H, W, C), ``images[:8]`` (8, H, W, C), float32.
        ``images.table`` has what the pixels mean, and nothing of where an image comes from.
    labels : ndarray of int64, shape (n,) or (n, c)
        Indexes into ``classes``. For a trainer whose ``tasks`` hold ``"multilabel"``, where an
        image has several labels: 1 where it has one, 0 where it has not, -1 where that is not
        known and so says nothing of this label.
    persons : ndarray of str, shape (n,)
        Opaque: equal for images that must stay on one side of any split.
    classes : tuple of str
        Sorted; the order of the columns of every prediction.
    weights : ndarray of float32, shape (n,)
        Weight of each image, 1 unless the user asked otherwise.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    persons: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """Rows of the trainer's features, shape (n, d), as a memory map is indexed.

        Raises
        ------
        TrainingError
            If the trainer has no ``features``.
        """
        features = self.images.features
        if features is None:
            raise TrainingError("this trainer declares no 'features', so there are none to read")
        return features

    def view(self, **changes: Any) -> LabelledImages:
        """Return the same images seen through another window, size, channels or scale."""
        return replace(self, images=self.images.with_view(**changes))

    def take(self, rows: npt.ArrayLike) -> LabelledImages:
        """Return some of the images, in the order given."""
        rows = np.asarray(rows)
        rows = rows if rows.size else rows.astype(np.int64)  # NumPy takes none for floats
        return LabelledImages(
            self.images.take(rows),
            self.labels[rows],
            self.persons[rows],
            self.classes,
            self.weights[rows],
        )


@dataclass(frozen=True)
class RunContext:
    """Where and how one fit happens.

    Attributes
    ----------
    seed : int
        Derived from run seed, fold and trainer; the only source of randomness to use.
    folder : Path
        Of this fold: the one place to write.
    checkpoints : Path
        For resuming after a kill; removed when the fold is done.
    device : str
        ``"cpu"``, or ``"gpu:0"``: the host has hidden the others.
    threads : int
        How many to use.
    log : callable
        Takes a sentence for the run's log.
    progress : callable
        Takes (done, total, unit); features are counted by the host.
    facts : callable
        Use `status`.
    looks : callable
        Use `look`.
    stopping : callable
        True when the user asked to stop: leave at the next safe place.
    """

    seed: int
    folder: Path
    checkpoints: Path
    device: str = "cpu"
    threads: int = 1
    log: Callable[[str], None] = field(default=lambda text: None)
    progress: Callable[[int, int, str], None] = field(default=lambda done, total, unit: None)
    facts: Callable[[Mapping[str, Any]], None] = field(default=lambda facts: None)
    looks: Callable[[Mapping[str, Any]], None] = field(default=lambda look: None)
    stopping: Callable[[], bool] = field(default=lambda: False)

    def status(self, **facts: float) -> None:
        """Tell how the fit stands, as often as it is known; the last word of an epoch is kept.

        Parameters
        ----------
        **facts : float
            Of ``epoch`` (from 0) and ``epochs``, ``loss`` and ``validation_loss`` (mean log loss,
            lower is better), ``images_per_second`` and ``batch_size``. What is left out stays as
            it was told.

        Raises
        ------
        TypeError
            If a fact has another name.
        """
        if unknown := sorted({*facts} - FACTS):
            raise TypeError(f"unknown facts {unknown}; a status is of {sorted(FACTS)}")
        self.facts(facts)

    def look(self, epoch: int, value: float, chosen: bool) -> None:
        """Record one look at the validation part.

        Parameters
        ----------
        epoch : int
            When it was taken; rises through a fit.
        value : float
            What was seen, finite, higher is better: minus the validation log loss, so that the
            report can set it beside the test part, or else a balanced accuracy.
        chosen : bool
            True if the weights of this look are, so far, the ones that will be returned.
        """
        self.looks({"epoch": int(epoch), "value": float(value), "chosen": bool(chosen)})
