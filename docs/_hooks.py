"""What the site does to a page before it is rendered: called by MkDocs.

Pages prepare what their examples stand on (a client that answers, a server on this
machine) in blocks inside HTML comments. The tests run these blocks; readers of the source
on a forge do not see them. The Markdown extension that knows fenced blocks takes them out
of the comment before anybody looks at comments, so they are taken away here.
"""

from __future__ import annotations

import re

_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page without its comments."""
    return _COMMENT.sub("", markdown)
