"""Text made harmless for others' formats: it ends no line, moves no cursor, turns no direction of writing."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with the number of each letter that is not printable: a backslash, ``x``, hexadecimal digits."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def escaped(text: str, special: str) -> str:
    """Return the text in printable letters, with a backslash before each that is in ``special``."""
    return "".join("\\" + letter if letter in special else letter for letter in printable(text))
