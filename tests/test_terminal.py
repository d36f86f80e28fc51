"""What reaches a terminal."""

from __future__ import annotations

import json

import pytest

from medkit.cli.terminal import clean, explain, print_json, print_table, say, show_progress


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\u202eevil", "\\u202eevil"),
        (None, "None"),
    ],
)
def test_control_characters_are_shown_not_sent(text: object, shown: str) -> None:
    assert clean(text) == shown


def test_markup_in_text_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]x[/bold] \x1b[31m")
    print_table("[red]t", ("[c]",), [["[i]cell\x1b[0m"], [None]])
    explain("[b]bad")
    out, err = capsys.readouterr()
    assert "[bold]x[/bold] \\x1b[31m" in out
    assert "[i]cell\\x1b[0m" in out
    assert "error: [b]bad" in err
    assert "\x1b" not in out + err


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None, "é"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "é"]}


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("scan") as report:
        report(1, 2, "files")
    assert capsys.readouterr() == ("", "")
