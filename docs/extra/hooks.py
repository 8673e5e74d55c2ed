"""What mkdocs does here besides building: the site is kept from asking other hosts for anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# The theme would fetch these, for diagrams that no page has and for browsers of long ago.
_ELSEWHERE = re.compile(r"https://unpkg\.com/[\w@./-]+")


def on_post_build(config: Any) -> None:
    """Take the addresses of a content delivery network out of the scripts of the theme."""
    for script in Path(config["site_dir"], "assets", "javascripts").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        script.write_text(_ELSEWHERE.sub("data:text/javascript,", text), encoding="utf-8")
