"""Parses a key: ``provider``, ``provider/model`` or ``provider@account/model``."""

from __future__ import annotations

from resilient_llm._values.errors import ConfigurationError


def parse_key(spec: object) -> tuple[str, str, str]:
    """Return ``(provider, account, model)`` of a key; account and model may be empty.

    The provider is lower-cased, and blanks around the halves are removed. Only an ``@`` before the
    first slash names an account, since models may contain one.

    Raises:
        ConfigurationError: If the key is not a text, is blank, or has an empty half.
    """
    if not isinstance(spec, str):
        raise ConfigurationError(
            f"a key is a text such as 'groq' or 'groq/llama-3.3-70b', not {type(spec).__name__}"
        )
    head, slash, model = spec.strip().partition("/")
    provider, at, account = head.partition("@")
    provider, account, model = provider.strip().lower(), account.strip(), model.strip()
    if not head and not slash:
        raise ConfigurationError("a key is blank: write 'provider' or 'provider/model'")
    if not provider or (slash and not model) or (at and not account):
        raise ConfigurationError(
            f"{spec!r} has an empty half: "
            "write 'provider', 'provider/model' or 'provider@account/model'"
        )
    return provider, account, model


def provider_key(provider: str, account: str) -> str:
    return f"{provider}@{account}" if account else provider
