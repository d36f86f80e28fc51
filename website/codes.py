"""The codes of files that are odd and frames that are refused, from the modules that give them."""

from __future__ import annotations

import re

_RULE = re.compile(r"^=+ =+$")


def draw_codes() -> dict[str, str]:
    """Return the tables by what the page of codes calls them."""
    from medkit.catalog import schema
    from medkit.images import pixels

    kinds, problems, oddities = list_tables(schema.__doc__ or "")
    (refusals,) = list_tables(pixels.__doc__ or "")
    return {
        "kinds": _draw("kind", kinds),
        "problems": _draw("code", problems),
        "oddities": _draw("code", oddities),
        "refusals": _draw("code", refusals),
    }


def list_tables(text: str) -> list[dict[str, str]]:
    """Return the simple tables of a docstring, each as its two columns."""
    tables: list[dict[str, str]] = []
    inside = False
    for line in text.splitlines():
        if _RULE.match(line):
            tables += [] if inside else [{}]
            inside = not inside
        elif inside:
            word, _, rest = line.partition(" ")
            if word:
                tables[-1][word] = rest.strip()
            else:
                last = next(reversed(tables[-1]))
                tables[-1][last] += f" {rest.strip()}"
    return tables


def _draw(head: str, table: dict[str, str]) -> str:
    rows = [f"| `{code}` | {told.replace('``', '`')} |" for code, told in table.items()]
    return "\n".join([f"| {head} | |", "|---|---|", *rows])
