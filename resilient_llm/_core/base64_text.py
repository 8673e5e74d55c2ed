"""Which texts are data in base64, and so are no text."""

from __future__ import annotations

import re
from typing import Final

SHORTEST: Final = 1_000
"""Characters of what is taken for base64 without a `data:` before it."""
_LOOKED_AT: Final = 2_048
"""Characters at the start and in the middle that show whether to look at all."""
_KNOWN: Final = (
    "iVBOR",  # PNG
    "/9j/",  # JPEG
    "R0lGOD",  # GIF
    "UklGR",  # WebP and WAV
    "JVBERi",  # PDF
    "SUQz",  # MP3
    "T2dnUw",  # Ogg
    "GkXfo",  # WebM
    "UEsDB",  # documents of Office
)
"""How the data of files begin."""
_BEGINNING: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}|[A-Za-z0-9_-]+={0,2}")
_STANDARD: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SAFE: Final = _STANDARD[:-2] + b"-_"
_WIDTHS: Final = (64, 76)
"""Characters of a line, in mail and in keys."""


def is_base64(text: str) -> bool:
    """Return whether a text is a `data:` URL, or nothing but long data in base64.

    A text without blanks is still one if it does not mix capitals, small letters and digits as data
    do: hexadecimal digits, sequences of proteins, identifiers, and a letter that is repeated.

    Args:
        text: Of the built-in class.
    """
    if len(text) < SHORTEST or text.startswith("data:"):
        return text.startswith("data:") and ";base64," in text[:256]
    first = text[:64]
    if not _BEGINNING.fullmatch(first) or not text.isascii():
        return False
    if not text.startswith(_KNOWN) and not _is_mixed(text):
        return False
    return _is_of_alphabet(text.rstrip("\r\n"))


def _is_mixed(text: str) -> bool:
    middle = len(text) // 2
    seen = text[:_LOOKED_AT] + text[middle : middle + _LOOKED_AT]
    digits = sum(map(seen.count, "0123456789"))
    capitals = sum(map(seen.count, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    small = sum(map(seen.count, "abcdefghijklmnopqrstuvwxyz"))
    few = len(seen) // 50
    return len(set(seen)) >= 32 and digits > few and capitals > 7 * few and small > 5 * few


def _is_of_alphabet(text: str) -> bool:
    data = text.encode("ascii")
    end = data.find(b"\n")
    if end >= 0:
        width = end - 1 if data[end - 1 : end] == b"\r" else end
        breaks = data[end :: end + 1]
        if width not in _WIDTHS or breaks.count(b"\n") != len(breaks):
            return False
        count = data.count(b"\n")
        if count != len(breaks) or data.count(b"\r") != (count if width < end else 0):
            return False
        data = data.replace(b"\r\n" if width < end else b"\n", b"")
    data = data[:-2] + data[-2:].rstrip(b"=")
    return not data.translate(None, _STANDARD) or not data.translate(None, _SAFE)
