"""The page: one file of HTML with its style and its script, and the policy that allows them."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "page"


class Page(NamedTuple):
    """What is sent for the page."""

    html: bytes
    policy: str
    """Its Content-Security-Policy."""


@functools.cache
def page() -> Page:
    """Return the page, put together from its three sources."""
    style, script, html = (
        (_FOLDER / name).read_text(encoding="utf-8")
        for name in ("style.css", "script.js", "index.html")
    )
    policy = (
        "default-src 'none'; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    whole = html.replace("/*style*/", style).replace("/*script*/", script)
    return Page(whole.encode(), policy)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
