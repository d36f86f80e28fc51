"""Text from files is data: what it must look like where people read it."""

from __future__ import annotations

import unicodedata

# Control, format, surrogate and separator characters: escape sequences, line ends, marks that
# turn the direction of writing.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def reveal(text: str) -> str:
    r"""Return text in which no character acts unseen: those that would are shown as ``\xNN``."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )
