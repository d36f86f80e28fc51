"""What a run says to the questions of reporting checklists and of a model card, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from medkit.evaluation.evidence import Evidence
from medkit.evaluation.flow import Flow
from medkit.evaluation.mistakes import unroll
from medkit.evaluation.provenance import NOT_STATED
from medkit.evaluation.saliency import ALIKE, Saliency
from medkit.evaluation.spelling import spell, spell_value
from medkit.evaluation.tables import choose_measures

_METHODS = {
    "cam": "class activation maps, exact for a linear layer on averaged maps (Zhou et al. 2016)",
    "model": "the model's own explanation",
    "occlusion": "occlusion: parts of the image are covered in turn (Zeiler and Fergus 2014)",
}
_MOST_VALUES = 6
# What holds of every run.
_ALWAYS = {
    "privacy": "Names and birth dates are not stored by medkit; persons stand under opaque keys.",
    "artefacts": "Each fold's model, with a description and hashes, is in the folder of the run; "
    "'medkit export model' writes all as one in an open form.",
    "updating": "No model was updated after it was tested.",
    "domain": "'medkit predict' refuses images unlike those of training (domain.json of the run).",
}


class Told(NamedTuple):
    """All that answers are drawn from.

    Attributes
    ----------
    evidence : Evidence
    flow : Flow or None
    saliency : Saliency
    sources : dict of str to str
        Licence and citation of each source.
    concerns : sequence of str
        What stands above the number.
    command : str
        That repeats the run.
    """

    evidence: Evidence
    flow: Flow | None
    saliency: Saliency
    sources: Mapping[str, str]
    concerns: Sequence[str]
    command: str

    @property
    def run(self) -> Mapping[str, Any]:
        """``run.json``."""
        return self.evidence.run

    @property
    def metrics(self) -> Mapping[str, Any]:
        """``metrics.json``, empty where there is none."""
        return self.evidence.metrics or {}

    @property
    def images(self) -> pd.DataFrame:
        """The rows of the set of the images that took part; empty where the set is gone."""
        if self.evidence.image_set is None or self.evidence.folds is None:
            return pd.DataFrame()
        table = self.evidence.image_set.table
        return table[table["image"].isin(self.evidence.folds["image"])]


def answer_questions(told: Told) -> dict[str, str | None]:
    """Return an answer to each question; None where the run does not know."""
    return _ALWAYS | {name: answer(told) for name, answer in _ANSWERS.items()}


def _goal(told: Told) -> str:
    names = ", ".join(told.evidence.classes)
    what = (
        "Detection of findings, each by itself, in"
        if told.evidence.several
        else ("Classification of")
    )
    return (
        f"{what} single images ({names}); development, with internal testing by "
        f"{told.run['k']}-fold cross-validation."
    )


def _method(told: Told) -> str:
    run = told.run
    return (
        f"Trainer {run['plugin']} of {run['distribution']} {run['version']}; options: "
        f"{spell(run['params'])}."
    )


def _sources(told: Told) -> str | None:
    known = [f"{name}: {licence}." for name, licence in told.sources.items()]
    return " ".join(known) or None


def _licences(told: Told) -> str | None:
    """Return nothing to read, and None where the licence of a source is not stated."""
    stated = [licence != NOT_STATED for licence in told.sources.values()]
    return "" if stated and all(stated) else None


def _dates(told: Told) -> str | None:
    dates = _column(told, "StudyDate")
    return f"Studies from {dates.min()} to {dates.max()}." if len(dates) else None


def _selection(told: Told) -> str:
    usual = {"slices": "all", "plane": "stored"}
    names = ("where", "slices", "plane", "include")
    asked = {name: value for name in names if (value := told.run["recipe"].get(name))}
    chosen = {name: value for name, value in asked.items() if value != usual.get(name)}
    return f"Of the images of the catalog: {spell(chosen) or 'all of the kinds for training'}."


def _exclusions(told: Told) -> str | None:
    if told.flow is None:
        return None
    lost = [
        f"{reason} {count:,}" for stage in told.flow.stages for reason, count in stage.lost.items()
    ]
    return f"Left out: {'; '.join(lost)}." if lost else "Nothing was left out."


def _preprocessing(told: Told) -> str:
    recipe = told.run["recipe"]
    shown = {
        name: recipe[name] for name in ("size", "geometry", "filter", "mm") if recipe.get(name)
    }
    return f"Decoded at full bit depth, resized ({spell(shown)}), no windowing, no 8-bit step."


def _view(told: Told) -> str:
    view = ((told.run["features"] or {}).get("spec") or {}).get("view")
    names = ("window", "windows", "channels", "size", "scale")
    shown = view or {k: told.run["params"][k] for k in names if told.run["params"].get(k)}
    return (
        f"The model sees: {spell(shown)}."
        if shown
        else "The model sees images as the set has them."
    )


def _missing(told: Told) -> str:
    unlabelled = sum(told.run["dropped"].values())
    return f"{unlabelled:,} images of the set took no part. No value was imputed."


def _acquisition(told: Told) -> str | None:
    shown = {
        title: _tally(_column(told, name))
        for title, name in (
            ("modality", "Modality"),
            ("maker", "Manufacturer"),
            ("model", "ManufacturerModelName"),
        )
    }
    known = {title: values for title, values in shown.items() if values}
    return f"By the headers: {spell(known)}." if known else None


def _column(told: Told, name: str) -> pd.Series[Any]:
    images = told.images
    values: pd.Series[Any] = images[name] if name in images else pd.Series(dtype=object)
    return values.dropna()


def _tally(values: pd.Series[Any]) -> str:
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    shown = [f"{name} ({count:,})" for name, count in counts[:_MOST_VALUES].items()]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _label(told: Told) -> str:
    return f"The label {told.run['label']} of the catalog, as its journal has it."


def _partitions(told: Told) -> str:
    run = told.run
    by = spell({k: v for k, v in (run.get("split") or {}).items() if v})
    held = run.get("held_out")
    return (
        f"{run['k']} folds, dealt by a key of each person and seed {run['seed']}, stratified by "
        f"label{f'; {by}' if by else ''}."
        + (f" Held out: {held['images']:,} images of {held['persons']:,} persons." if held else "")
    )


def _disjoint(told: Told) -> str:
    if (told.run["leaks"] or {}).get("exact"):
        return "By person, but leaks were found and allowed: they stand above the number."
    return (
        "By person: who shares a PatientID, a study or identical pixels is one person, and no "
        "person is in two partitions."
    )


def _size(told: Told) -> str | None:
    if not told.metrics:
        return None
    return f"All that could be used: {_count_sizes(told.metrics)}."


def _count_sizes(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['images']:,} images of {metrics['persons']:,} persons"


def _output(told: Told) -> str:
    names = ", ".join(told.evidence.classes)
    if told.evidence.several:
        return f"A probability for each of {names}; an image may have several, or none."
    return f"A probability for each of {names}, and the most probable of them."


def _software(told: Told) -> str:
    return f"{spell(told.run['versions'])}; backend {told.run['backend']}."


def _weights(told: Told) -> str:
    weights, seed = told.run["weights"], told.run["seed"]
    return f"{spell(weights)}; seed {seed}." if weights else f"No pretrained weights; seed {seed}."


def _training(told: Told) -> str:
    run = told.run
    return (
        f"{run['k']} models, one a fold, on {run['device']} with {run['threads']} threads in "
        f"{run['seconds']:.0f} s; options: {spell(run['params'])}; seed {run['seed']}."
    )


def _choice(told: Told) -> str | None:
    looks = [look for look in told.metrics.get("looks", []) if look["number"]]
    if not told.metrics:
        return None
    if not looks:
        return "Nothing was chosen by looks at held-out images."
    share = told.run["validation_share"]
    where = f"{100 * share:.0f} % of the training persons" if share else "inner folds of persons"
    return f"By {sum(look['number'] for look in looks):,} looks at {where}; never by a test part."


def _ensemble(told: Told) -> str:
    calibration = told.evidence.calibration
    heat = ""
    if calibration:
        each = calibration["temperature"] if told.evidence.several else [calibration["temperature"]]
        heat = f", at temperature {', '.join(f'{one:.2f}' for one in each)}"
    return (
        "No ensemble stands behind these numbers: one model predicted each image. New images are "
        f"predicted by the mean of the {told.run['k']} models{heat}."
    )


def _metrics(told: Told) -> str | None:
    if not told.metrics:
        return None
    measures = choose_measures(told.evidence)
    return f"{', '.join(measures[name].short for name in measures)}; headline {_headline(told)}."


def _headline(told: Told) -> str:
    return choose_measures(told.evidence)[told.metrics["headline"]].title


def _uncertainty(told: Told) -> str | None:
    if not told.metrics:
        return None
    interval, permutation = told.metrics["interval"], told.metrics.get("permutation")
    tested = f" Permutation test by person: p = {permutation['p']:.3g}." if permutation else ""
    return (
        f"{100 * interval['level']:.0f} % intervals: {interval['method']}, "
        f"{interval['resamples']:,} resamples.{tested}"
    )


def _robustness(told: Told) -> str | None:
    if not told.metrics:
        return None
    levels = [name for name, one in (told.metrics.get("levels") or {}).items() if one]
    groups = {one["by"] for one in told.metrics.get("subgroups") or []}
    parts = [f"by fold ({len(told.metrics['folds'])})"]
    parts += [f"by level ({', '.join(levels)})"] if levels else []
    parts += [f"by subgroup ({', '.join(sorted(groups))})"] if groups else []
    parts += ["by what metadata alone predict"] if told.evidence.audit.get("shortcuts") else []
    return f"Looked at {', '.join(parts)}." if len(parts) > 1 else None


def _subgroups(told: Told) -> str | None:
    groups = sorted({one["by"] for one in told.metrics.get("subgroups") or []})
    return f"Measured by {', '.join(groups)}, with sizes and intervals." if groups else None


def _explanation(told: Told) -> str | None:
    saliency = told.saliency
    if not saliency.method:
        return None
    text = f"{_METHODS[saliency.method]}."
    if saliency.alike is None:
        return f"Maps by {text} Not checked: the model hides its weights."
    verdict = "do" if saliency.alike < ALIKE else "hardly"
    return (
        f"Maps by {text} Check against shuffled weights (Adebayo et al. 2018): absolute rank "
        f"correlation {saliency.alike:.2f}; the maps {verdict} depend on what was learned."
    )


def _internal(told: Told) -> str | None:
    if not told.metrics:
        return None
    headline = told.metrics["metrics"][told.metrics["headline"]]
    return f"{_headline(told)}: {spell_value(headline)}, on {_count_sizes(told.metrics)}."


def _external(told: Told) -> str:
    found = [
        f"{one['on']}: {spell_value(one['metrics']['metrics'][one['metrics']['headline']])}, "
        f"{_count_sizes(one['metrics'])}, model and threshold locked."
        for one in told.evidence.evaluations
    ]
    return " ".join(found) or "The run was not evaluated on other images in this workspace."


def _flow(told: Told) -> str | None:
    if told.flow is None:
        return None
    stages = [
        f"{stage.title} {stage.count:,} {stage.unit} {stage.note}".strip(" .")
        for stage in told.flow.stages
    ]
    return f"{'; '.join(stages)}."


def _demographics(told: Told) -> str | None:
    sex, age = (_column(told, name) for name in ("PatientSex", "PatientAge"))
    parts = [f"sex: {_tally(sex)}"] if len(sex) else []
    parts += [f"age: {_spell_ages(age)}"] if len(age) else []
    return f"Images by {'; '.join(parts)}." if parts else None


def _spell_ages(ages: pd.Series[Any]) -> str:
    """Return the middle and the ends of ages (PS3.5 6.2, AS); those in years count, as years."""
    years = pd.to_numeric(ages.str.extract(r"^(\d{3})Y$")[0]).dropna()
    if years.empty:
        return _tally(ages)
    middle, low, high = (round(float(one)) for one in (years.median(), years.min(), years.max()))
    rest = len(ages) - len(years)
    return f"median {middle} years, {low} to {high}" + (f" ({rest:,} otherwise)" if rest else "")


def _all_metrics(told: Told) -> str | None:
    measures = choose_measures(told.evidence)
    values = told.metrics.get("metrics", {})
    shown = [f"{measures[k].short} {spell_value(v)}" for k, v in values.items() if k in measures]
    return f"{'; '.join(shown)}." if shown else None


def _diagnostic(told: Told) -> str | None:
    shown = [
        f"{name}: sensitivity {spell_value(one['sensitivity'])}, "
        f"specificity {spell_value(one['specificity'])}"
        for name, one in told.metrics.get("per_class", {}).items()
    ]
    return f"{'; '.join(shown)}." if shown else None


def _failures(told: Told) -> str | None:
    predictions = told.evidence.predictions
    if predictions is None:
        return None
    what = "images"
    if told.evidence.several:
        predictions, what = unroll(predictions, told.evidence.classes), "answers, one a label,"
    wrong = int((predictions["predicted"] != predictions["label"]).sum())
    return f"{wrong:,} of {len(predictions):,} {what} are wrong; the surest are shown above."


def _limitations(told: Told) -> str | None:
    return " ".join(f"{text.rstrip('.')}." for text in told.concerns) or None


def _protocol(told: Told) -> str:
    return f"All technical details are in this report; to repeat it: {told.command}"


def _available(told: Told) -> str:
    run = told.run
    return (
        f"Software: medkit {run['versions'].get('medkit', '')} and {run['distribution']} "
        f"{run['version']}. Models: in the folder of the run, {run['k']} of them."
    )


def _balance(told: Told) -> str | None:
    shares = [
        f"{name} {100 * one['prevalence']:.0f} %"
        for name, one in told.metrics.get("per_class", {}).items()
    ]
    what = "labels" if told.evidence.several else "classes"
    return f"{', '.join(shares)}; the headline weighs {what} equally." if shares else None


def _folds(told: Told) -> str | None:
    shown = [
        f"fold {one['fold']}: {one['images']:,} images of {one['persons']:,} persons"
        for one in told.metrics.get("folds", [])
    ]
    return f"{'; '.join(shown)}." if shown else None


_ANSWERS: dict[str, Callable[[Told], str | None]] = {
    "goal": _goal,
    "method": _method,
    "sources": _sources,
    "licences": _licences,
    "dates": _dates,
    "selection": _selection,
    "exclusions": _exclusions,
    "preprocessing": _preprocessing,
    "view": _view,
    "missing": _missing,
    "acquisition": _acquisition,
    "label": _label,
    "partitions": _partitions,
    "disjoint": _disjoint,
    "size": _size,
    "output": _output,
    "software": _software,
    "weights": _weights,
    "training": _training,
    "choice": _choice,
    "ensemble": _ensemble,
    "metrics": _metrics,
    "uncertainty": _uncertainty,
    "robustness": _robustness,
    "subgroups": _subgroups,
    "explanation": _explanation,
    "internal": _internal,
    "external": _external,
    "flow": _flow,
    "demographics": _demographics,
    "all_metrics": _all_metrics,
    "diagnostic": _diagnostic,
    "failures": _failures,
    "limitations": _limitations,
    "protocol": _protocol,
    "available": _available,
    "balance": _balance,
    "folds": _folds,
}
