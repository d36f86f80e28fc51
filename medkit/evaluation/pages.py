"""Pages: one HTML file each, that asks for nothing and runs no script.

Text from files reaches a page through Jinja2's escaping alone; the only markup put in as it is are
figures, in which no such text stands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from medkit.evaluation.spelling import spell_number, spell_p, spell_points, spell_share
from medkit.text import reveal


def render(template: str, **context: Any) -> str:
    """Return a page; see the templates for what they want.

    A value of None becomes a dash, and characters that act unseen are shown.
    """
    return str(_load_templates().get_template(template).render(**context)) + "\n"


@lru_cache(maxsize=1)  # what it has compiled it keeps
def _load_templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medkit.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_reveal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": spell_share,
        "number": spell_number,
        "points": spell_points,
        "p": spell_p,
        "count": "{:,}".format,
    }
    return environment


def _reveal(value: Any) -> Any:
    """Show what would otherwise act on the page unseen: control and bidirectional characters."""
    if value is None:
        return "–"
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable():  # pictures are long
        return value
    return reveal(value)
