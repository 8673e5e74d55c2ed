"""Anthropic's SDK: what it raises before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._evidence import dead, transient

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_NO_KEY: Final = dead("invalid_credentials")
_AGAIN: Final = transient("server_error")
_KEYLESS: Final = frozenset(("anthropic.CredentialsError", "anthropic.IdentityTokenFileError"))
ONLY_FOR: Final = _KEYLESS | {"anthropic.RetryableError"}


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that no credentials were found, or that the SDK itself would try again."""
    evidence.sign = ("class", evidence.shape.names[0])
    return _AGAIN if _KEYLESS.isdisjoint(evidence.shape.names) else _NO_KEY
