"""Anthropic's SDK: errors raised before anything is sent. Others: `codes`, `sentences`, `http`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._verdicts import NO_CREDENTIALS, SERVER_ERROR

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_KEYLESS: Final = frozenset(("anthropic.CredentialsError", "anthropic.IdentityTokenFileError"))
ONLY_FOR: Final = _KEYLESS | {"anthropic.RetryableError"}


def by_class(evidence: Evidence) -> Verdict | None:
    """Return that there are no credentials, or that the SDK itself would retry."""
    evidence.matched_by = ("class", evidence.error_class.names[0])
    return SERVER_ERROR if _KEYLESS.isdisjoint(evidence.error_class.names) else NO_CREDENTIALS
