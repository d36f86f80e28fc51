"""Two reporting checklists and a model card, with what a run answers by itself.

CLAIM, 2024 update (Tejani et al., Radiology: Artificial Intelligence 6, 2024, e240300; 44 items),
and TRIPOD+AI (Collins et al., BMJ 385, 2024, e078378; 27 items). The topics are in this program's
own words: send the checklists of the journals, and look there for what each item asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FILLED, PARTLY, AUTHOR = "filled", "in part", "for the author"


class Item(NamedTuple):
    """An item of a checklist.

    Attributes
    ----------
    number : str
    topic : str
    answers : str
        Names of `answers.answer_questions`, separated by spaces, that answer it.
    left : str
        What the author has to add; empty where the answers are all that is asked.
    """

    number: str
    topic: str
    answers: str = ""
    left: str = ""


CLAIM: dict[str, list[Item]] = {
    "Title and abstract": [
        Item("1", "The title names the kind of artificial intelligence", "method", "the title"),
        Item("2", "Structured abstract", "", "the abstract"),
    ],
    "Introduction": [
        Item("3", "Background, and what the model is meant for", "", "the clinical question"),
        Item("4", "Aims and hypotheses", "", "the aims"),
    ],
    "Study design": [
        Item("5", "Prospective or retrospective", "", "which of the two"),
        Item("6", "Goal of the study", "goal", "what it is to be good for"),
    ],
    "Data": [
        Item("7", "Where the data come from", "sources licences"),
        Item("8", "Who was included and who was not", "selection exclusions", "clinical criteria"),
        Item("9", "What was done to the images first", "preprocessing view"),
        Item("10", "How parts of the data were selected", "selection"),
        Item("11", "De-identification", "privacy", "how the files were de-identified"),
        Item("12", "Missing data", "missing"),
        Item("13", "How the images were acquired", "acquisition"),
    ],
    "Reference standard": [
        Item("14", "What the reference standard is", "label", "how the label was defined"),
        Item("15", "Why this one", "", "the reasons"),
        Item("16", "Who annotated, from what", "", "annotators and their sources"),
        Item("17", "How the test images were annotated", "", "whether otherwise than the rest"),
        Item("18", "Variability between and within annotators", "", "how it was measured"),
    ],
    "Data partitions": [
        Item("19", "How images came into partitions", "partitions"),
        Item("20", "At which level partitions are disjoint", "disjoint"),
    ],
    "Testing data": [Item("21", "Intended sample size", "size", "how it was determined")],
    "Model": [
        Item("22", "The model, its inputs and outputs", "method view output"),
        Item("23", "Software and versions", "software"),
        Item("24", "Initial parameters", "weights"),
    ],
    "Training": [
        Item("25", "How it was trained", "training"),
        Item("26", "How the final model was chosen", "choice"),
        Item("27", "Ensembles", "ensemble"),
    ],
    "Evaluation": [
        Item("28", "Metrics", "metrics"),
        Item("29", "Uncertainty and significance", "uncertainty"),
        Item("30", "Robustness", "robustness"),
        Item("31", "Explanations, and whether they hold", "explanation"),
        Item("32", "Testing on internal data", "internal"),
        Item("33", "Testing on external data", "external"),
        Item("34", "Registration of a clinical trial", "", "the number, if it is one"),
    ],
    "Results: data": [
        Item("35", "How many were included and excluded", "flow"),
        Item("36", "Who they are, in each partition", "demographics"),
    ],
    "Results: model": [
        Item("37", "Performance, with its uncertainty", "internal all_metrics"),
        Item("38", "Diagnostic estimates, with their precision", "diagnostic"),
        Item("39", "What went wrong where", "failures"),
    ],
    "Discussion": [
        Item("40", "Limitations", "limitations", "those that no run can know"),
        Item("41", "What follows for practice", "", "the implications"),
    ],
    "Other information": [
        Item("42", "Study protocol and technical details", "protocol", "the protocol"),
        Item("43", "Software, model and data: are they available", "available", "where"),
        Item("44", "Funding, and the role of funders", "", "the funding"),
    ],
}

TRIPOD: dict[str, list[Item]] = {
    "Title and abstract": [
        Item("1", "Title", "goal", "the title"),
        Item("2", "Abstract", "", "the abstract"),
    ],
    "Introduction": [
        Item("3", "Background: context, users, known inequalities", "", "the background"),
        Item("4", "Objectives", "goal", "the objectives"),
    ],
    "Methods": [
        Item("5", "Sources and dates of the data", "sources dates", "how representative they are"),
        Item("6", "Participants: setting, eligibility, treatment", "selection", "the setting"),
        Item("7", "Preparation of the data", "preprocessing view"),
        Item("8", "Outcome, and who assessed it", "label", "definition and assessment"),
        Item("9", "Predictors", "view acquisition", "why images alone"),
        Item("10", "Sample size", "size", "how it was determined"),
        Item("11", "Missing data", "missing"),
        Item("12", "Analysis: model, tuning, measures", "partitions training choice metrics"),
        Item("13", "Imbalance of classes", "balance"),
        Item("14", "Fairness", "subgroups", "which groups matter, and why"),
        Item("15", "Output of the model", "output"),
        Item("16", "Differences between development and evaluation", "disjoint external"),
        Item("17", "Ethical approval", "", "the approval"),
    ],
    "Open science": [
        Item("18", "Funding, interests, protocol, data, code", "available", "the rest"),
        Item("19", "Involvement of patients and the public", "", "what there was"),
    ],
    "Results": [
        Item("20", "Flow and characteristics of participants", "flow demographics"),
        Item("21", "Sizes of each analysis", "partitions folds"),
        Item("22", "The whole model, for others to use", "artefacts"),
        Item("23", "Performance, also in subgroups", "internal all_metrics subgroups"),
        Item("24", "Updating of the model", "updating"),
    ],
    "Discussion": [
        Item("25", "Interpretation", "", "what the results mean"),
        Item("26", "Limitations", "limitations", "those that no run can know"),
        Item("27", "Use in practice: input, users, next steps", "domain", "users and next steps"),
    ],
}


class Answered(NamedTuple):
    """An item with what the run says to it: ``state`` is filled, in part, or for the author."""

    number: str
    topic: str
    state: str
    text: str
    left: str


def fill(
    checklist: Mapping[str, list[Item]], answers: Mapping[str, str | None]
) -> dict[str, list[Answered]]:
    """Return a checklist, section by section, filled as far as the answers go."""
    return {
        section: [_answer(item, answers) for item in items] for section, items in checklist.items()
    }


def _answer(item: Item, answers: Mapping[str, str | None]) -> Answered:
    found = [answers[name] for name in item.answers.split()]
    text = " ".join(one for one in found if one)
    whole = bool(found) and None not in found and not item.left
    state = FILLED if whole else PARTLY if text else AUTHOR
    left = "" if whole else item.left or "what the files do not say"
    return Answered(item.number, item.topic, state, text, left)


def count(filled: Mapping[str, list[Answered]]) -> dict[str, Any]:
    """Return how many items are in each state, and how many there are."""
    states = [one.state for items in filled.values() for one in items]
    return {state: states.count(state) for state in (FILLED, PARTLY, AUTHOR)} | {"all": len(states)}


# Sections of a model card (Mitchell et al., FAT* 2019, arXiv:1810.03993), and what fills them.
CARD: dict[str, tuple[str, str]] = {
    "Model": ("method output available", ""),
    "Intended use": ("goal", "Who is to use it, for what decision, and for what not."),
    "Factors": ("acquisition demographics subgroups", "Groups that matter and are not in headers."),
    "Metrics": ("metrics uncertainty", ""),
    "Training data": ("sources selection preprocessing", ""),
    "Evaluation data": ("partitions disjoint external", ""),
    "Results": ("internal diagnostic", ""),
    "Ethical considerations": ("privacy", "Approval, consent, and what harm a mistake does."),
    "Caveats": ("limitations domain", "What no run can know."),
}


def write_card(answers: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Return the sections of a model card: what the run says, and what is left to the author."""
    return {
        title: (" ".join(filter(None, (answers[name] for name in names.split()))), left)
        for title, (names, left) in CARD.items()
    }
