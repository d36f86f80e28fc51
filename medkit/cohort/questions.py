"""What is asked of images: one label of one value each, or several that may stand together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from medkit.errors import CohortError, UsageError
from medkit.statistics.truth import (
    MULTICLASS,
    MULTILABEL,
    SEPARATOR,
    UNKNOWN,
    spell_findings,
    split_findings,
)

if TYPE_CHECKING:
    from medkit.catalog.store import Catalog

# What a label says that is one question of several; case does not matter.
_ANSWERS: Mapping[str, str] = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "positive", "present"), "yes"),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "negative", "absent"), "no"),
    **dict.fromkeys(("-1", "-1.0", "uncertain", "unknown", "?"), "unknown"),
}
# Names that say that there is no finding, where they stand alone.
_NOTHING = {"no finding", "no findings", "none", "normal"}
_SHOWN = 5


class Question(NamedTuple):
    """A label that is to be told.

    Attributes
    ----------
    label : str
        Name of a label of the catalog; several, with commas between, are several questions.
    separator : str or None
        Between the names in the values of a label that tells several findings, such as ``"|"``.
    """

    label: str
    separator: str | None = None

    @property
    def names(self) -> list[str]:
        """The labels of the catalog that it asks for."""
        return [name.strip() for name in self.label.split(",") if name.strip()]

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.separator is not None or len(self.names) > 1

    @property
    def task(self) -> str:
        """Of `medkit.training.contract.Trainer.tasks`."""
        return MULTILABEL if self.several else MULTICLASS

    def check(self) -> None:
        """Raise if it cannot be asked.

        Raises
        ------
        UsageError
            If several labels are asked for whose values hold several names each, or the separator
            is empty.
        """
        if self.separator is not None and (len(self.names) > 1 or not self.separator):
            raise UsageError(
                "--separator is what stands between the names in the values of one label, such as "
                "'|' in 'Edema|Mass'; several labels, with commas between, need none"
            )


def read_answers(catalog: Catalog, question: Question, keep: Sequence[str] = ()) -> pd.DataFrame:
    """Return ``file`` and ``value`` of every file that is labelled.

    Parameters
    ----------
    catalog : Catalog
    question : Question
        Of several labels a value is a text of findings (`medkit.statistics.truth`).
    keep : sequence of str
        Names to ask for also if they say that there is nothing.

    Raises
    ------
    UsageError
        If there is no such label, or a question has another answer than yes, no and unknown.
    CohortError
        If a name cannot stand among others.
    """
    question.check()
    if not question.several:
        return catalog.labels(question.label)
    if question.separator is not None:
        return _split_values(catalog.labels(question.label), question.separator, keep)
    return _join_answers({name: catalog.labels(name) for name in question.names})


def _split_values(labels: pd.DataFrame, separator: str, keep: Sequence[str]) -> pd.DataFrame:
    """Return the same labels, each value a text of the names that it holds."""
    labels = labels.dropna(subset=["value"])
    kinds = {
        value: [name for part in value.split(separator) if (name := part.strip())]
        for value in labels["value"].astype(str).unique()
    }
    names = {name for several in kinds.values() for name in several}
    _check_names(names)
    beside = {name for several in kinds.values() if len(several) > 1 for name in several}
    nothing = {name for name in names - beside - {*keep} if name.lower() in _NOTHING}
    spelt = {value: spell_findings({*several} - nothing) for value, several in kinds.items()}
    return labels.assign(value=labels["value"].astype(str).map(spelt))


def _join_answers(labels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return texts of the labels that are answered with yes; of files without an answer unknown."""
    columns = {}
    for name, answers in labels.items():
        told = answers.dropna(subset=["value"]).set_index("file")["value"].astype(str)
        meant = told.str.strip().str.lower().map(_ANSWERS)
        if meant.isna().any():
            strange = sorted(told[meant.isna()].unique())[:_SHOWN]
            raise UsageError(
                f"the label {name!r} is one of several, so each value says yes (1), no (0) or "
                f"unknown (-1), and it has {', '.join(map(repr, strange))}; ask for it alone, or "
                "with --separator if a value holds several names"
            )
        columns[name] = meant
    _check_names({*columns})
    table = pd.DataFrame(columns).fillna("unknown")
    texts = [
        spell_findings(
            *(
                [name for name, one in zip(table.columns, row, strict=True) if one == answer]
                for answer in ("yes", "unknown")
            )
        )
        for row in table.itertuples(index=False)
    ]
    return pd.DataFrame({"file": table.index.to_numpy(), "value": texts})


def _check_names(names: set[str]) -> None:
    wrong = sorted(name for name in names if SEPARATOR in name or name.startswith(UNKNOWN))
    if wrong:
        raise CohortError(
            f"{wrong[0]!r} cannot be one of several labels: {SEPARATOR!r} stands between them, and "
            f"{UNKNOWN!r} before one that is not known; give --separator {SEPARATOR!r}, or other "
            "names"
        )


def choose_findings(texts: pd.Series[Any], wanted: Sequence[str]) -> pd.Series[Any]:
    """Return texts of the wanted findings alone; None where none of them is known."""

    def choose(text: str) -> str | None:
        present, unknown = (part & {*wanted} for part in split_findings(text))
        return None if len(unknown) == len({*wanted}) else spell_findings(present, unknown)

    chosen = {text: choose(text) for text in texts.unique()}
    return texts.map(chosen).astype(object)
