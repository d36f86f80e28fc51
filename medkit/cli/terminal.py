"""What the verbs print: tables and sentences for people, JSON for programs, progress bars.

Text that comes from files is escaped here: it reaches a terminal neither as markup nor as
control sequences.
"""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from medkit.errors import UsageError
from medkit.text import reveal
from medkit.workspace import dump_json, write_beside

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from medkit.catalog.listing import Answer
    from medkit.catalog.summary import Summary
    from medkit.engine import Progress
    from medkit.training.child import Event
    from medkit.training.course import Watcher
    from medkit.training.monitoring import Outlook

SCREEN = 20  # rows of a table
_RECENT = 30.0  # seconds that a rate is taken over
_SELDOM = (10.0, 300.0)  # seconds between two lines of a run, where there is no terminal
_MODALITIES = 8  # rows of a summary that a person sees


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


def print_answer(answer: Answer, form: str, output: Path | None, limit: int | None) -> None:
    """Print an answer of the catalog in one of the forms of `exports`, or as a table.

    Parameters
    ----------
    limit : int, optional
        Rows at most, 0 for all; by default so many as fit a screen, and all of another form.
    """
    from medkit.catalog.exports import export
    from medkit.catalog.listing import cut, preview

    if form == "table":
        shown = preview(answer, SCREEN if limit is None else limit)
        print_table(shown.title, shown.columns, shown.rows, note=shown.note)
        return
    with open_output(output, text=form != "parquet") as sink:
        export(cut(answer.batches, limit or 0), form, sink)


def print_summary(summary: Summary, form: str = "table", output: Path | None = None) -> None:
    """Print what is in a catalog, on one screen, or all of it as JSON.

    Raises
    ------
    UsageError
        If another form is asked for.
    """
    from medkit.catalog.summary import describe, tell

    if form == "json":
        with open_output(output) as sink:
            sink.write(dump_json(summary.to_json()))
        return
    if form != "table":
        raise UsageError(f"a summary is a table or JSON, not {form}")
    print_facts(f"catalog {summary.snapshot}", describe(summary))
    columns = ("modality", "images", "series", "persons")
    rows = [
        [tell(row["value"]), row["images"], row["series"], row["persons"]]
        for row in summary.modalities
    ]
    print_table("modalities", columns, rows[:_MODALITIES], note=_tell_more(rows))


def _tell_more(rows: Sequence[Sequence[Any]]) -> str:
    rest = rows[_MODALITIES:]
    if not rest:
        return ""
    return f"and {len(rest):,} more with {sum(row[1] for row in rest):,} images; --json has all"


@contextmanager
def open_output(path: Path | None, *, text: bool = True) -> Iterator[IO[bytes]]:
    """Yield where an answer is written: a file, which appears when it is whole, or standard output.

    On a terminal, characters that would act unseen are shown instead, as everywhere.

    Parameters
    ----------
    path : Path, optional
        The file; by default standard output.
    text : bool
        Whether what comes is text.

    Raises
    ------
    UsageError
        If it is not text and would go to a terminal.
    """
    if path is not None and path.exists() and not path.is_file():  # a pipe, or a device
        with path.open("wb") as handle:
            yield handle
    elif path is not None:
        with write_beside(path.resolve()) as beside, beside.open("wb") as handle:
            yield handle
    elif not sys.stdout.isatty():
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif text:
        yield cast("IO[bytes]", _Revealed(sys.stdout))
    else:
        raise UsageError("this is no text for a terminal: give --output FILE, or a pipe")


class _Revealed(io.RawIOBase):
    """Takes text as bytes and shows it, its lines kept, on a terminal."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        text = self._decoder.decode(bytes(content))
        self._terminal.write("\n".join(map(reveal, text.split("\n"))))
        return len(content)


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield a function that stages report to; draws a bar with rate, and time left or gone.

    Nothing is drawn where standard error is not a terminal.
    """
    from medkit.engine import silent

    if not sys.stderr.isatty():
        yield silent
        return
    with _bars() as bars:
        yield _follow(bars, title)


@contextmanager
def show_training(title: str) -> Iterator[tuple[Progress, Watcher]]:
    """Yield what a run's stages, and what its events, are told to.

    On a terminal a bar of all folds is drawn, with the time left, and under it what each fold
    that is being fitted says. Elsewhere a line comes now and then, ever more seldom.
    """
    from medkit.engine import silent
    from medkit.training.monitoring import Outlook

    outlook = Outlook()
    if not sys.stderr.isatty():
        yield silent, _write_lines(outlook, clean(title))
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    bars, console = _bars(), _console(stderr=True)
    move = _follow(bars, title)

    def progress(done: int, total: int | None, unit: str) -> None:
        if unit != "folds":  # the outlook counts them, and what is done inside them
            move(done, total, unit)

    def watch(event: Event) -> None:
        outlook.watch(event)
        if event["event"] == "begun":
            for line in _tell_begin(event):
                console.print(f"{clean(title)}: {line}", markup=False, highlight=False)
        elif outlook.running:
            clock = "" if outlook.left is None else f"{_clock(outlook.left)} left"
            done, total = outlook.share * outlook.total, outlook.total
            bars.update(bars.task_ids[0], completed=done, total=total, rate="folds", clock=clock)

    def draw() -> Group:
        return Group(bars.get_renderable(), Text(clean(outlook.describe()), overflow="ellipsis"))

    with Live(get_renderable=draw, console=console, transient=True):
        yield progress, watch


def _write_lines(outlook: Outlook, title: str) -> Watcher:
    """Return a watcher that writes how a run stands to standard error, as lines."""
    due, pause = outlook.clock(), _SELDOM[0]

    def watch(event: Event) -> None:
        nonlocal due, pause
        outlook.watch(event)
        lines: list[str] = []
        if event["event"] == "begun":
            lines = _tell_begin(event)
        elif event["event"] == "settled":
            lines = [_tell_settled(event, outlook)]
        elif event["event"] == "status" and outlook.clock() >= due:
            due, pause = outlook.clock() + pause, min(2 * pause, _SELDOM[1])
            left = "" if outlook.left is None else f", {_clock(outlook.left)} left"
            lines = [f"{outlook.describe()}{left}"]
        for line in lines:
            print(f"{title}: {clean(line)}", file=sys.stderr, flush=True)

    return watch


def _tell_begin(event: Event) -> list[str]:
    done = f", {event['settled']} are done" if event["settled"] else ""
    return [
        f"{event['folds']} folds on {clean(event['where'])}{done}",
        *([f"note: {clean(event['note'])}"] if event["note"] else []),
    ]


def _tell_settled(event: Event, outlook: Outlook) -> str:
    left = "" if not outlook.left else f", {_clock(outlook.left)} left"
    end = f": {event['error']}" if event["error"] else left
    seconds = f"{event['status']} after {_clock(event['seconds'])}"
    return f"fold {event['fold'] + 1} of {outlook.total} {seconds}{end}"


def _follow(bars: Bars, title: str) -> Progress:
    """Return a function that moves a bar, and starts it anew where what is counted changes.

    The rate is that of the last seconds. It is not rich's own, which forgets what it knows
    whenever the total grows, as it does while a tree is still walked.
    """
    task = bars.add_task(clean(title), total=None, rate="", clock="")
    counted = ""
    marks: deque[tuple[float, int]] = deque()

    def report(done: int, total: int | None, unit: str) -> None:
        nonlocal counted
        if unit != counted:
            marks.clear()
            bars.reset(task)
            bars.tasks[task].total = None
            counted = unit
        now = bars.get_time()
        if not marks or now - marks[-1][0] > _RECENT / 100:
            marks.append((now, done))
        while len(marks) > 1 and now - marks[1][0] > _RECENT:
            marks.popleft()
        since, before = marks[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        if rate > 0 and total is not None:
            clock = f"{_clock((total - done) / rate)} left"
        else:
            clock = f"{_clock(bars.tasks[task].elapsed)} gone"
        words = f"{rate:,.0f} {unit}/s" if rate > 0 else unit
        bars.update(task, completed=done, total=total, rate=words, clock=clock)

    return report


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(int(seconds or 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _bars() -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[clock]}", markup=False),
        console=_console(stderr=True),
        transient=True,
    )


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
