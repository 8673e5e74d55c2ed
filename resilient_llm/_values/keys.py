"""Parses a key: ``provider``, ``provider/model`` or ``provider@account/model``."""

from __future__ import annotations

from typing import Final

from resilient_llm._values.errors import ConfigurationError

LONGEST_KEY: Final = 512
"""Characters of the longest key, its account included."""


def shown(key: object) -> str:
    """Return a key as messages show it: quoted, and cut if it is long."""
    return f"{key[:40]!r}…" if isinstance(key, str) and len(key) > 60 else repr(key)


def check_key(key: str) -> str:
    """Return a key that is short enough and has neither control characters nor lone surrogates.

    A lone surrogate is half of a character, which no encoding can write: neither a scrape, a
    query nor a file.

    Raises:
        ConfigurationError: If it is not; the message shows the beginning of the key.
    """
    if len(key) > LONGEST_KEY:
        raise ConfigurationError(
            f"a key of {len(key)} characters is too long: {shown(key)}; "
            f"at most {LONGEST_KEY} are allowed"
        )
    if not key.isprintable():
        if any(ord(each) < 32 or 127 <= ord(each) < 160 for each in key):
            raise ConfigurationError(f"{shown(key)} has control characters, which no key may have")
        if any(0xD800 <= ord(each) <= 0xDFFF for each in key):
            raise ConfigurationError(f"{shown(key)} has lone surrogates, which no key may have")
    return key


def parse_key(spec: object) -> tuple[str, str, str]:
    """Return ``(provider, account, model)`` of a key; account and model may be empty.

    The provider is lower-cased, and blanks around the halves are removed. Only an ``@`` before the
    first slash names an account, since models may contain one.

    Raises:
        ConfigurationError: If the key is not a text, is blank, has an empty half, is above
            512 characters, or has control characters or lone surrogates.
    """
    if not isinstance(spec, str):
        raise ConfigurationError(
            f"a key is a text such as 'groq' or 'groq/llama-3.3-70b', not {type(spec).__name__}"
        )
    head, slash, model = check_key(spec.strip()).partition("/")
    provider, at, account = head.partition("@")
    provider, account, model = provider.strip().lower(), account.strip(), model.strip()
    if not head and not slash:
        raise ConfigurationError("a key is blank: write 'provider' or 'provider/model'")
    if spec.strip().startswith("@"):
        raise ConfigurationError(
            f"{shown(spec)} is a name, which stands for a chain, and only chains may have one: "
            "write 'provider' or 'provider/model'"
        )
    if not provider or (slash and not model) or (at and not account):
        raise ConfigurationError(
            f"{shown(spec)} has an empty half: "
            "write 'provider', 'provider/model' or 'provider@account/model'"
        )
    return provider, account, model


def provider_key(provider: str, account: str) -> str:
    return f"{provider}@{account}" if account else provider
