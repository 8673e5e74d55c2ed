"""The options of a guarded stream. Streams are not supported by this version."""

from __future__ import annotations

from typing import Any

from resilient_llm._errors import ConfigurationError


class StreamPolicy:
    """How a stream is guarded; this version refuses to build one.

    The name exists so that code which asks for it is told where it is written, instead of
    running unguarded. ``breaker`` guards a function that streams.

    Raises:
        ConfigurationError: Always, in this version.
    """

    def __init__(self, **options: Any) -> None:
        raise ConfigurationError(
            "StreamPolicy is not available: streams are not supported by this version of @failover; "
            "guard a function that streams with @breaker"
        )
