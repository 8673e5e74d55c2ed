"""What the SDK of each provider reads from the environment, and where it sends its requests."""

from __future__ import annotations

import os
from typing import Final, NamedTuple
from urllib.parse import urlsplit


class Provider(NamedTuple):
    """One provider, as its SDK knows it.

    Attributes:
        keys: Variables of the environment with its key, any of which is enough; empty if it
            needs none.
        url: Where requests go, or empty if that differs from account to account.
        url_variable: Variable that names another URL, or empty.
    """

    keys: tuple[str, ...]
    url: str
    url_variable: str = ""


# From the documentation and the code of the SDKs, November 2026. One line a provider.
PROVIDERS: Final = {
    "anthropic": Provider(
        ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        "https://api.anthropic.com",
        "ANTHROPIC_BASE_URL",
    ),
    "azure": Provider(
        ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"), "", "AZURE_OPENAI_ENDPOINT"
    ),
    "cerebras": Provider(("CEREBRAS_API_KEY",), "https://api.cerebras.ai", "CEREBRAS_BASE_URL"),
    "cohere": Provider(("CO_API_KEY", "COHERE_API_KEY"), "https://api.cohere.com", "CO_API_URL"),
    "deepseek": Provider(("DEEPSEEK_API_KEY",), "https://api.deepseek.com"),
    "fireworks": Provider(("FIREWORKS_API_KEY",), "https://api.fireworks.ai"),
    "google": Provider(
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"), "https://generativelanguage.googleapis.com"
    ),
    "groq": Provider(("GROQ_API_KEY",), "https://api.groq.com", "GROQ_BASE_URL"),
    "huggingface": Provider(("HF_TOKEN",), "https://router.huggingface.co"),
    "mistral": Provider(("MISTRAL_API_KEY",), "https://api.mistral.ai"),
    "nvidia": Provider(("NVIDIA_API_KEY",), "https://integrate.api.nvidia.com"),
    "ollama": Provider((), "http://127.0.0.1:11434", "OLLAMA_HOST"),
    "openai": Provider(("OPENAI_API_KEY",), "https://api.openai.com", "OPENAI_BASE_URL"),
    "openrouter": Provider(("OPENROUTER_API_KEY",), "https://openrouter.ai"),
    "perplexity": Provider(("PERPLEXITY_API_KEY", "PPLX_API_KEY"), "https://api.perplexity.ai"),
    "replicate": Provider(("REPLICATE_API_TOKEN",), "https://api.replicate.com"),
    "together": Provider(("TOGETHER_API_KEY",), "https://api.together.xyz", "TOGETHER_BASE_URL"),
    "voyage": Provider(("VOYAGE_API_KEY",), "https://api.voyageai.com"),
    "xai": Provider(("XAI_API_KEY",), "https://api.x.ai"),
}
ALIASES: Final = {
    "azure_openai": "azure",
    "azure-openai": "azure",
    "claude": "anthropic",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "grok": "xai",
    "hf": "huggingface",
    "mistralai": "mistral",
    "together_ai": "together",
    "x-ai": "xai",
    "x_ai": "xai",
}


def provider_of(name: str) -> Provider | None:
    """Return a provider by the name that a target has for it."""
    return PROVIDERS.get(ALIASES.get(name, name))


def provider_at(url: str) -> str:
    """Return the name of the provider at a URL, or empty."""
    host = urlsplit(url).hostname or ""
    for name, provider in PROVIDERS.items():
        known = urlsplit(provider.url).hostname
        if known and known == host and provider.url.startswith("https"):
            return name
    return ""


def url_of(provider: Provider) -> str:
    """Return where requests go that no client says otherwise of, or empty."""
    url = os.environ.get(provider.url_variable, "") if provider.url_variable else ""
    if url and "://" not in url:  # as OLLAMA_HOST is often written
        url = f"http://{url}"
    return url or provider.url
