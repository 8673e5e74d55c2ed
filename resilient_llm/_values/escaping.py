"""`escaped`: a text of somebody else as a log line, a message or a terminal may show it."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Return the text with each character that could forge or break a line written as an escape.

    These are control characters (a newline begins a second log line, an escape sequence writes
    over the terminal), line and paragraph separators, marks that reverse the direction of text,
    and lone surrogates, which no stream can encode. Letters of all scripts stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(ascii(each)[1:-1] if _is_unsafe(ord(each)) else each for each in text)


def _is_unsafe(code: int) -> bool:
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or code == 0x061C
        or 0x200E <= code <= 0x200F
        or 0x2028 <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or 0xD800 <= code <= 0xDFFF
    )
