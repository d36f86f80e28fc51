"""What reaches a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from medkit.cli import terminal
from medkit.cli.terminal import (
    clean,
    explain,
    open_output,
    print_json,
    print_table,
    say,
    show_progress,
)
from medkit.errors import UsageError


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b1m", "\\x9b1m"),
        (None, "None"),
    ],
)
def test_control_characters_are_shown_not_sent(text: object, shown: str) -> None:
    assert clean(text) == shown


def test_markup_in_text_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]x[/bold] \x1b[31m")
    print_table("[red]t", ("[c]",), [["[i]cell\x1b[0m"], [None]], note="[u]\u202en")
    explain("[b]bad")
    out, err = capsys.readouterr()
    assert "[bold]x[/bold] \\x1b[31m" in out
    assert "[i]cell\\x1b[0m" in out
    assert "[u]\\u202en" in out
    assert "error: [b]bad" in err
    assert "\x1b" not in out + err


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None, "é"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "é"]}


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("scan") as report:
        report(1, 2, "files")
    assert capsys.readouterr() == ("", "")


def test_progress_shows_rate_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    bars = terminal._bars()
    now = 0.0
    monkeypatch.setattr(bars, "get_time", lambda: now)
    report = terminal._follow(bars, "[red]scan\x1b[0m")
    (task,) = bars.tasks
    assert task.description == "[red]scan\\x1b[0m"

    report(0, None, "files")
    for now in (1.0, 2.0, 3.0):
        report(int(now) * 50_000, None, "files")
    assert (task.fields["rate"], task.fields["clock"]) == ("50,000 files/s", "0:00:03 gone")
    now = 4.0
    report(200_000, 400_000, "files")
    assert (task.fields["rate"], task.fields["clock"]) == ("50,000 files/s", "0:00:04 left")
    now = 5.0
    report(210_000, 810_000, "files")  # the total grows while the tree is walked
    assert (task.fields["rate"], task.fields["clock"]) == ("42,000 files/s", "0:00:14 left")
    # Another stage counts other things, from zero.
    report(1, None, "series")
    assert (task.completed, task.total, task.fields["rate"]) == (1, None, "series")
    now = 105.0  # nothing was told for long
    report(201, 401, "series")
    assert (task.fields["rate"], task.fields["clock"]) == ("2 series/s", "0:01:40 left")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress("[bold]scan") as report:
        report(1, 2, "files")
    assert "[bold]scan" in screen.getvalue()


def write(path: Path | None, content: bytes, **options: Any) -> None:
    with open_output(path, **options) as sink:
        sink.write(content)


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    write(path, b"1")
    with pytest.raises(ZeroDivisionError), open_output(path) as sink:
        sink.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"1"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    link = tmp_path / "link"
    try:
        link.symlink_to("target")
    except OSError:
        pytest.skip("links need a right here")
    write(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    device = Path("/dev/null")
    if device.exists():
        write(device, b"nothing")
        assert not device.is_file()


def test_a_terminal_gets_text_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    with open_output(None) as sink:
        for piece in (b"a,\x1b[31m\n\xc3", b"\xa9\r\n"):  # a character comes in two pieces
            assert sink.write(piece) == len(piece)
    assert screen.getvalue() == "a,\\x1b[31m\né\\r\n"
    with pytest.raises(UsageError, match="--output"):
        write(None, b"PAR1", text=False)


def test_a_pipe_gets_the_bytes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write(None, b"\x1b\xff")
    assert capfdbinary.readouterr().out == b"\x1b\xff"
