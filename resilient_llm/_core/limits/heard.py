"""How the attempts on one target meet what its provider has reported of its own limits.

`HeardLimits` says whether the figures of a target and of its provider cover an attempt, and begins
it; `HeardAttempt` is that attempt, to which its answer belongs. The figures are in `reported`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.limits.reported import Started
from resilient_llm._values.keys import parse_key, provider_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.limits.reported import Refusal, ReportedLimits


class HeardAttempt:
    """An attempt whose answers are heard.

    Attributes:
        key: Key of its target, or of a provider.
        provider: Name of the provider.
        provider_key: Key of the provider, with its account.
        began_at: When it began, monotonic seconds; None if that is not known.
    """

    __slots__ = ("_started", "began_at", "key", "provider", "provider_key")

    def __init__(
        self,
        key: str,
        started: dict[str, Started],
        began_at: float | None = None,
        *,
        of: HeardLimits | None = None,
    ) -> None:
        """Take the key and the attempt by key; ``of`` knows the rest if it is given."""
        self.key = key
        if of is None:
            self.provider, account, _ = parse_key(key)
            self.provider_key = provider_key(self.provider, account)
        else:
            self.provider, self.provider_key = of.provider, of.provider_key
        self.began_at = began_at
        self._started = started

    def started(self, key: str) -> Started | None:
        """Return the attempt as it counts against the figures of one of its keys."""
        return self._started.get(key)

    def end(self) -> None:
        """Count the attempt no longer against any figure. Never waits; may be called again."""
        for started in self._started.values():
            started.end()


class HeardLimits:
    """What is reported of one target, and of its provider."""

    __slots__ = ("_of", "key", "keys", "provider", "provider_key")

    def __init__(self, key: str, of: Callable[[str], ReportedLimits]) -> None:
        """Take the key of a target, or of a provider, and what returns the figures of a key."""
        self.provider, account, _ = parse_key(key)
        self.provider_key = provider_key(self.provider, account)
        self.key = key
        self.keys = tuple(dict.fromkeys((self.provider_key, key)))
        self._of = of

    @property
    def counts_tokens(self) -> bool:
        """Whether an attempt needs an estimate of its tokens."""
        return any(self._of(key).has_tokens for key in self.keys)

    def refusal(
        self, now: float, input_tokens: int = 0, output_tokens: int = 0
    ) -> tuple[str, Refusal] | None:
        """Return whose figure does not cover an attempt, and why; None if all do.

        Of several, the one that covers it last. Takes nothing.
        """
        found: tuple[str, Refusal] | None = None
        for key in self.keys:
            refusal = self._of(key).refusal(now, input_tokens, output_tokens)
            if refusal is not None and (
                found is None or refusal.retry_after > found[1].retry_after
            ):
                found = key, refusal
        return found

    def begin(
        self, now: float, input_tokens: int = 0, output_tokens: int = 0
    ) -> HeardAttempt | tuple[str, Refusal]:
        """Begin an attempt, which counts against the figures until it ends; or say why not.

        Args:
            now: Monotonic seconds.
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
        """
        started: dict[str, Started] = {}
        attempt = HeardAttempt(self.key, started, now, of=self)
        for key in self.keys:
            begun = self._of(key).begin(now, input_tokens, output_tokens)
            if not isinstance(begun, Started):
                attempt.end()
                return key, begun
            started[key] = begun
        return attempt
