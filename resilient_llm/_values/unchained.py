"""`unchained`: an error that leads to nothing of what it is about, such as a password in a URL.

Tools that report errors send the variables of all frames, and the errors that came before.
"""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def unchained(error: E) -> E:
    """Return an error without its frames and the errors before it; its message says enough.

    Who raises it again does so outside of ``except``, so that nothing is chained again, and has
    dropped the secret from its own variables.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
