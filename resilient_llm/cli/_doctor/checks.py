"""The checks of ``resilient-llm doctor`` that call no provider's model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import settings
from resilient_llm.cli._doctor.clients import Client, Sources, key_text_state
from resilient_llm.cli._doctor.findings import Finding, Status
from resilient_llm.cli._doctor.hosts import MOST_SKEW, ask_all
from resilient_llm.cli._doctor.money import price_of, unused, where_kept
from resilient_llm.cli._doctor.providers import ALIASES, provider_at, provider_of, url_of
from resilient_llm.cli._doctor.sharing import of_store
from resilient_llm.cli._output import lasting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm import Failover, Target
    from resilient_llm.cli._doctor.hosts import HostAnswer

_TOO_LONG: Final = 600.0
"""Seconds of a client's timeout from which on it is none: the default of the SDKs."""


def findings_of(policy: Failover, fn: Any) -> Iterator[Finding]:
    """Yield what is found about each target of a policy.

    Args:
        policy: The policy.
        fn: The function under it, as it was written; None if there is none.
    """
    sources = Sources(fn)
    clients = {target.key: sources.client_for(target) for target in policy.chain}
    urls = {target.key: _url_of(target, clients[target.key], sources) for target in policy.chain}
    answers = ask_all({url for url in urls.values() if url})
    limit = _Limits(policy, fn)
    for target in policy.chain:
        client, answer = clients[target.key], answers.get(urls[target.key])
        for check, (status, message) in (
            ("key", _key(target, client, sources)),
            ("host", _host(target, answer)),
            ("clock", _clock(answer)),
            ("retries", _retries(client, sources)),
            ("timeout", limit.of(target, client, sources)),
            ("price", price_of(target)),
        ):
            yield Finding(target.key, check, status, message)
    yield from where_kept()
    yield from of_store()
    yield from unused()


def _url_of(target: Target, client: Client | None, sources: Sources) -> str:
    if client is not None:
        return client.url
    provider = provider_of(target.provider)
    return url_of(provider) if provider and "base_url" not in sources.keywords else ""


# Keys.


def _key(target: Target, client: Client | None, sources: Sources) -> tuple[Status, str]:
    if client is not None:
        return _key_of_client(client)
    provider = provider_of(target.provider)
    if provider is None:
        return "skipped", "no client was found in the function, and the provider is not a known one"
    if not provider.keys:
        return "ok", "needs none"
    if "api_key" in sources.keywords:
        return "skipped", "the function sets api_key= itself"
    names = " or ".join(provider.keys)
    if target.account:
        return "skipped", f"no client was found; account {target.account} has a key of its own"
    found = next((name for name in provider.keys if os.environ.get(name)), None)
    if found is None and ALIASES.get(target.provider, target.provider) in sources.other_sdks:
        return "skipped", f"its client cannot be looked into, and {names} is not set"
    if found is None:
        return "error", (
            f"{names} is not set, and no client was found in the function: set it where the "
            "service runs"
        )
    if key_text_state(os.environ[found]) != "set":
        return "error", f"{found} {_UNFIT}"
    return "ok", f"{found} is set"


_UNFIT: Final = (
    "holds blanks, a newline or letters that no header can carry: set it anew, without them"
)


def _key_of_client(client: Client) -> tuple[Status, str]:
    name = f"the {client.package} client"
    if client.key == "missing":
        return "error", f"{name} has none: give it api_key="
    if client.key == "unfit":
        return "error", f"the key of {name} {_UNFIT}"
    if client.key == "elsewhere":
        return "skipped", f"{name} gets it from a function, or from credentials of a cloud"
    other = provider_at(client.url)
    if client.is_openais_key and other not in ("", "openai"):
        return "warning", f"{name} sends OPENAI_API_KEY to {other}: give it an api_key= of its own"
    return "ok", f"{name} has one"


# Hosts and clocks.


def _host(target: Target, answer: HostAnswer | None) -> tuple[Status, str]:
    if answer is None:
        return "skipped", f"no client was found, and where {target.provider} is cannot be known"
    if answer.status is None:
        return "error", f"{answer.host} cannot be reached, {answer.why_not}: {_REACH}"
    return "ok", f"{answer.host} answered {answer.status} in {answer.seconds:.1f} s"


_REACH: Final = "look at the URL, DNS, the proxy and the firewall"


def _clock(answer: HostAnswer | None) -> tuple[Status, str]:
    if answer is None or answer.status is None:
        return "skipped", "there is no answer to compare it with"
    if answer.skew is None:
        return "skipped", f"{answer.host} sends no Date"
    if abs(answer.skew) > MOST_SKEW:
        direction = "ahead of" if answer.skew > 0 else "behind"
        return "error", (
            f"this machine is {lasting(abs(answer.skew))} {direction} {answer.host}: set its "
            "clock, or signed requests fail and waits are misread"
        )
    return "ok", f"within {MOST_SKEW:g} s of {answer.host}"


# Retries and timeouts.


def _retries(client: Client | None, sources: Sources) -> tuple[Status, str]:
    if "max_retries" in sources.keywords:
        return "skipped", "the function sets max_retries= itself"
    if client is None or client.max_retries is None:
        return "skipped", "no client was found that tells"
    if client.max_retries > 0:
        remedy = (
            "http_options without retry_options" if client.package == "google" else "max_retries=0"
        )
        return "warning", (
            f"the {client.package} client retries {client.max_retries} times by itself, which "
            f"multiplies with the attempts of the chain: build it with {remedy}"
        )
    return "ok", f"the {client.package} client does not retry by itself"


class _Limits:
    """Which limits of time hold for the attempts of a function."""

    def __init__(self, policy: Failover, fn: Any) -> None:
        from resilient_llm.cli._doctor.functions import can_be_cut_off

        # There is no public way to the options of a policy.
        options = policy._declared.options_under(settings())
        self._timeout = options.timeout
        self._attempt_timeout = options.attempt_timeout
        self._is_kept = fn is None or options.stream is not None or can_be_cut_off(fn)
        """Whether the policy can cut an attempt off, or tell it how long it may take."""

    def of(self, target: Target, client: Client | None, sources: Sources) -> tuple[Status, str]:
        """Return what is found about a target."""
        own = [
            each
            for each in (target.attempt_timeout, self._attempt_timeout, self._timeout)
            if each is not None
        ]
        if own and self._is_kept:
            return "ok", f"at most {lasting(min(own))} by the policy"
        if client is not None and client.timeout is not None and client.timeout < _TOO_LONG:
            return "ok", f"at most {lasting(client.timeout)} by the {client.package} client"
        if "timeout" in sources.keywords:
            return "skipped", "the function sets timeout= itself"
        if own:
            return "warning", (
                "timeout= of the policy cannot interrupt a synchronous function: give the client "
                "a timeout as well, or take an Attempt and obey its remaining"
            )
        ends = "never ends by itself"
        if client is None:
            ends = "ends when its client says so, which is after 10 minutes with most of them"
        elif client.timeout is not None:
            ends = f"ends after the {lasting(client.timeout)} of its client"
        remedy = "write failover(…, timeout=60)" if self._is_kept else "give the client timeout=60"
        return "warning", f"a call that hangs {ends}: {remedy}"
