"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "-w",
        "--workspace",
        envvar="MEDKIT_WORKSPACE",
        help="The folder that holds everything medkit makes.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="'local', 'dask://host:port' for Dask workers, or 'slurm?queue=NAME&cores=8&"
        "memory=32GB' for jobs of SLURM.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes to use; by default the processors at hand."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Everything random follows from it.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, gpu or gpu:N.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Pinned and recorded; by default the processors at hand."
    ),
]

ThresholdOption = Annotated[
    str,
    typer.Option(
        "--threshold",
        help="From where on an image is positive, of two classes: argmax (the more probable one), "
        "youden, sensitivity=0.95, specificity=0.9, or a probability; found on the run's own "
        "out-of-fold predictions.",
    ),
]
OutsideDomainOption = Annotated[
    bool,
    typer.Option(
        "--outside-domain",
        help="Predict also images unlike those that the run was trained on: of another modality, "
        "in colour, negatives.",
    ),
]

SetArgument = Annotated[str, typer.Argument(metavar="SET", help="Name of a set.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name of a finished run.")]
LabelOption = Annotated[str, typer.Option("--label", help="Name of a label of the catalog.")]

SeparatorOption = Annotated[
    str | None,
    typer.Option(
        "--separator",
        help="What stands between the names where a value of the label holds several, such as '|' "
        "in 'Edema|Mass': each is then predicted by itself.",
    ),
]

# What decides which folds there are: equal for audit and train, or they would not meet.
FoldsOption = Annotated[int, typer.Option("--folds", min=2, help="Parts of the persons.")]
HoldOutOption = Annotated[
    float,
    typer.Option(
        "--hold-out",
        min=0.0,
        max=0.5,
        help="Share of the persons that no run is trained on, until 'medkit open'.",
    ),
]
StratifyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stratify",
        metavar="COLUMN",
        help="What is to be even between folds besides the label: a column of the set, a label "
        "or a tag of the catalog. May be repeated.",
    ),
]
FoldsByOption = Annotated[
    str | None,
    typer.Option(
        "--folds-by",
        metavar="COLUMN",
        help="Every value is a fold: leave one site out. Instead of --folds.",
    ),
]
FoldsFromOption = Annotated[
    str | None,
    typer.Option(
        "--folds-from",
        metavar="COLUMN|CSV",
        help="Take folds that are given, by a column, or by a table with a column 'fold' or "
        "'split'. What it calls 'test' is held out.",
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option("--classes", help="Use these alone: commas between, quoted as in CSV."),
]
MinPersonsOption = Annotated[
    int | None,
    typer.Option("--min-persons", min=1, help="Set aside classes with fewer persons."),
]


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="By default what the suffix of --output says, or a table."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="A file, which appears when it is whole.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=0,
        help="Rows at most, 0 for all; by default 20 of a table, and all otherwise.",
    ),
]
AnonymiseOption = Annotated[
    bool,
    typer.Option(
        "--anonymise-output",
        help="Show pseudonyms instead of IDs, UIDs, paths, names, dates and descriptions.",
    ),
]

NoSaliencyOption = Annotated[
    bool,
    typer.Option("--no-saliency", help="Do not ask the models which parts of the images decided."),
]

HERE = Path()
