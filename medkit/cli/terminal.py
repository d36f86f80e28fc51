"""What the verbs print: tables and sentences for people, JSON for programs, progress bars.

Text that comes from files is escaped here: it reaches a terminal neither as markup nor as
control sequences.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medkit.text import reveal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from medkit.engine import Progress


def clean(value: object) -> str:
    """Return a value as text that is safe on a terminal."""
    return reveal(str(value))


def say(text: str) -> None:
    """Print a sentence on standard output, as it is."""
    _console().print(clean(text), markup=False, highlight=False, soft_wrap=True)


def explain(text: str) -> None:
    """Print an error on standard error, on one line."""
    _console(stderr=True).print(
        f"error: {clean(text)}", markup=False, highlight=False, soft_wrap=True, style="red"
    )


def print_json(result: Any) -> None:
    """Print a result as JSON on standard output, and nothing else."""
    json.dump(result, sys.stdout, indent=2, ensure_ascii=True, default=str)
    sys.stdout.write("\n")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = ""
) -> None:
    """Print rows under a title; numbers are set to the right, empty cells where a value is None."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=Text(clean(title)), title_justify="left")
    if note:
        table.caption, table.caption_justify = Text(clean(note)), "left"
    for position, column in enumerate(columns):
        numeric = all(isinstance(row[position], int | float | None) for row in rows) and bool(rows)
        table.add_column(
            Text(clean(column)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text("" if cell is None else clean(cell)) for cell in row))
    _console().print(table)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns."""
    print_table(title, ("", ""), list(facts.items()))


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield a function that stages report to; draws bars with rate and time left.

    Nothing is drawn where standard error is not a terminal.
    """
    from medkit.engine import silent

    if not sys.stderr.isatty():
        yield silent
        return
    with _bars() as bars:
        task = bars.add_task(clean(title), total=None, unit="", rate="")

        def report(done: int, total: int | None, unit: str) -> None:
            speed = bars.tasks[task].speed
            rate = f"{speed:,.0f} {unit}/s" if speed else unit
            bars.update(task, completed=done, total=total, rate=rate)

        yield report


def _bars() -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_console(stderr=True),
        transient=True,
    )


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
