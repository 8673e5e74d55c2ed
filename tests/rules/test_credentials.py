"""Credentials that are missing or cannot be sent, in the words of each client, and hiccups of token servers."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import openai
import pytest
import requests

from resilient_llm import ErrorKind, Target, classify, failover, list_benched
from tests.replay.server import Server
from tests.support.errors import shaped, wrapped
from tests.support.ways import GROQ, OPENAI

pytestmark = pytest.mark.filterwarnings("ignore")


def raised(function: Callable[[], Any]) -> Exception:
    """Return what it raises; a skipped test is no error, and leaves."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


MESSAGES: Any = [{"role": "user", "content": "Will it rain?"}]
HEADER = {"Authorization": "Bearer not-a-key\n"}
ODD_HEADER = {"Authorization": "Bearer \u201cnot-a-key\u201d"}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the credentials of whoever runs the tests."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url() -> Iterator[str]:
    """Where somebody would answer if a request were sent."""
    with Server({"status": 500, "body": {}}) as server:
        yield server.url


def by_openai(url: str, key: str) -> Any:
    with openai.OpenAI(api_key=key, base_url=url, max_retries=0) as client:
        return client.chat.completions.create(model="m", messages=MESSAGES)


def by_openai_async(url: str, key: str) -> Any:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0) as client:
            return await client.responses.create(model="m", input="?")

    return asyncio.run(ask())


def by_anthropic(url: str, key: str) -> Any:
    with anthropic.Anthropic(api_key=key, base_url=url, max_retries=0) as client:
        return client.messages.create(model="m", max_tokens=1, messages=MESSAGES)


def by_groq(url: str, key: str) -> Any:
    groq = pytest.importorskip("groq")
    with groq.Groq(api_key=key, base_url=url, max_retries=0) as client:
        return client.chat.completions.create(model="m", messages=MESSAGES)


def by_mistral(url: str, key: str) -> Any:
    client = pytest.importorskip("mistralai.client")
    return client.Mistral(api_key=key, server_url=url).chat.complete(model="m", messages=MESSAGES)


def by_boto3(url: str, key: str) -> Any:
    boto3 = pytest.importorskip("boto3")
    client = boto3.Session(region_name="us-east-1").client(
        "bedrock-runtime", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key="s"
    )
    return client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "?"}]}])


def by_requests(url: str, key: str) -> Any:
    return requests.post(url, headers={"Authorization": key}, timeout=5)


def by_httpx(url: str, key: str) -> Any:
    return httpx.post(url, headers={"x-api-key": key})


def by_httpx2(url: str, key: str) -> Any:
    return httpx2.post(url, headers={"x-api-key": key})


def by_urllib(url: str, key: str) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": key}))


def by_http_client(url: str, key: str) -> Any:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        return connection.request("POST", "/", headers={"Authorization": key})
    finally:
        connection.close()


def by_aiohttp(url: str, key: str) -> Any:
    async def ask() -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, headers={"a": key}) as it:
            return it

    return asyncio.run(ask())


CLIENTS = [
    by_openai, by_openai_async, by_anthropic, by_groq, by_mistral, by_requests, by_httpx,
    by_httpx2, by_urllib, by_http_client,
]  # fmt: skip
# These send letters beyond ASCII as UTF-8.
SEND_LETTERS = [by_aiohttp, by_boto3]


@pytest.mark.parametrize("key", ["not-a-key\n", "not-a-key\r\n"], ids=["newline", "crlf"])
@pytest.mark.parametrize("ask", CLIENTS + SEND_LETTERS)
def test_a_key_with_a_newline_is_a_dead_key(
    ask: Callable[[str, str], Any], key: str, url: str
) -> None:
    """A client that refuses to send a key says that nobody but an operator can mend it."""
    verdict = classify(raised(lambda: ask(url, key)))

    assert ("auth_dead", "invalid_credentials", "provider") == (
        verdict.kind,
        verdict.reason,
        verdict.scope,
    )


@pytest.mark.parametrize("ask", [ask for ask in CLIENTS if ask is not by_anthropic])
def test_a_key_with_a_letter_beyond_ascii_is_a_dead_key(
    ask: Callable[[str, str], Any], url: str
) -> None:
    """A key that was pasted with a typographic quotation mark is as dead."""
    error = raised(lambda: ask(url, "not-a-key\u2019"))

    assert "auth_dead" == classify(error).kind


def test_a_header_is_not_everything_that_a_client_cannot_encode(url: str) -> None:
    """An address with such letters and the caller's own encoding are bugs."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    address = raised(lambda: connection.request("GET", "/w\u00e9ather"))
    own = raised(lambda: "\u2713".encode("ascii"))

    assert ["caller_bug"] * 2 == [classify(address).kind, classify(own).kind]


def test_a_message_of_the_callers_own_is_no_refusal_of_a_client() -> None:
    """The words count only where a client raised them."""
    own = raised(lambda: _refuse("Invalid header value b'x'"))

    assert "caller_bug" == classify(own).kind


def _refuse(words: str) -> None:
    raise ValueError(words)


def test_the_fallback_answers_when_a_key_cannot_be_sent(url: str) -> None:
    """The provider with the malformed key is benched, and the next one is asked at once."""

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        if target.provider == "groq":
            by_openai(url, "not-a-key\n")
        return target.key

    assert OPENAI == ask()
    assert {"groq": "invalid_credentials"} == {each.model: each.reason for each in list_benched()}


# --- missing ones -----------------------------------------------------------------------------


def _groq() -> Any:
    return pytest.importorskip("groq").Groq()


def _azure_environment() -> Any:
    identity = pytest.importorskip("azure.identity")
    return identity.EnvironmentCredential().get_token("x/.default")


def _bedrock_by_anthropic() -> Any:
    pytest.importorskip("boto3")
    client = anthropic.AnthropicBedrock(aws_region="us-east-1", max_retries=0)
    return client.messages.create(model="m", max_tokens=1, messages=MESSAGES)


def _profile() -> Any:
    boto3 = pytest.importorskip("boto3")
    return boto3.Session(profile_name="no-such-profile").client("bedrock-runtime")


def _gemini_by_langchain() -> Any:
    return pytest.importorskip("langchain_google_genai").ChatGoogleGenerativeAI(model="m")


def _gemini() -> Any:
    genai: Any = pytest.importorskip("google.genai")
    return genai.Client()


@pytest.mark.parametrize(
    "ask",
    [
        openai.OpenAI,
        lambda: anthropic.Anthropic().messages.create(model="m", max_tokens=1, messages=MESSAGES),
        _groq,
        _azure_environment,
        _bedrock_by_anthropic,
        _profile,
        _gemini_by_langchain,
        _gemini,
    ],
    ids=["openai", "anthropic", "groq", "azure", "bedrock", "profile", "langchain", "gemini"],
)
def test_a_missing_credential_is_a_dead_key(
    ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Each client has words of its own for a key that is not there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    assert ("auth_dead", "invalid_credentials") == (
        (verdict := classify(raised(ask))).kind,
        verdict.reason,
    )


@pytest.mark.parametrize(
    "error",
    [
        shaped("azure.identity.CredentialUnavailableError", ("Azure CLI not found on path",)),
        shaped("botocore.exceptions.UnauthorizedSSOTokenError", ("the session has expired",)),
        shaped(
            "litellm.exceptions.InternalServerError",
            ("OpenAIException - Missing credentials. Please pass an `api_key`",),
            status_code=500,
            llm_provider="openai",
            message="OpenAIException - Missing credentials. Please pass an `api_key`",
        ),
        shaped(
            "litellm.exceptions.APIConnectionError",
            ("Missing Gemini API key. Set the GEMINI_API_KEY environment variable.",),
            status_code=500,
            llm_provider="gemini",
        ),
    ],
    ids=["azure", "sso", "litellm-openai", "litellm-gemini"],
)
def test_words_and_classes_for_a_missing_credential(error: Exception) -> None:
    """Clients that are not installed here are known by module, name and words."""
    assert "auth_dead" == classify(error).kind


def test_a_translated_refusal_is_found() -> None:
    """litellm raises what it has made of a refused header from None, with a status of its own."""
    error = shaped(
        "litellm.exceptions.InternalServerError", ("Connection error.",), status_code=500
    )
    error.__context__ = wrapped(
        httpx.LocalProtocolError("Illegal header value b'Bearer not-a-key\\n'")
    )

    assert "auth_dead" == classify(error).kind


# --- servers that give tokens -----------------------------------------------------------------


def refreshed(status: int, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """Return what google-auth raises when the metadata server of a machine answers so."""
    pytest.importorskip("google.auth")
    with Server({"status": status, "body": {"error": "no"}}) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        from google.auth import exceptions
        from google.auth.compute_engine import _metadata
        from google.auth.transport.requests import Request

        importlib.reload(_metadata)  # it reads the variable when it is imported
        monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)

        def refresh() -> Any:
            try:
                return _metadata.get(Request(), "instance/service-accounts/default", retry_count=1)
            except exceptions.TransportError as failed:
                # As compute_engine.Credentials.refresh() does.
                raise exceptions.RefreshError(failed) from failed

        return raised(refresh)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, "transient"), (503, "transient"), (429, "transient"), (404, "auth_dead")],
)
def test_a_hiccup_of_the_metadata_server_passes(
    status: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a machine that has no service account lacks a credential."""
    assert kind == classify(refreshed(status, monkeypatch)).kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Received non 200 response 500 from container metadata: oops", "transient"),
        ("Received error when attempting to retrieve container metadata: timed out", "transient"),
        ("Received non 200 response 404 from container metadata: no role", "auth_dead"),
    ],
)
def test_a_hiccup_of_a_containers_metadata_passes(words: str, kind: str) -> None:
    """botocore puts what the metadata server answered into the message."""
    error = shaped(
        "botocore.exceptions.CredentialRetrievalError",
        (
            f"Error when retrieving credentials from container-role: Error retrieving metadata: {words}",
        ),
    )

    assert kind == classify(error).kind


def test_a_refused_token_is_a_dead_key() -> None:
    """google-auth raises the same class, without a cause, for a token that is refused."""
    error = shaped(
        "google.auth.exceptions.RefreshError",
        ("invalid_grant: Invalid JWT Signature.", json.dumps({"error": "invalid_grant"})),
        _retryable=False,
        base=type("GoogleAuthError", (Exception,), {"__module__": "google.auth.exceptions"}),
    )

    assert ErrorKind.AUTH_DEAD is classify(error).kind


# Headers that are not a key, and answers of token servers.


USERS_DATA = ("Jos\u00e9 \u4e2d", "Bob\nSmith", "a\nb", "\u201cquoted\u201d")


def tagged_by_openai(url: str, value: str) -> Any:
    with openai.OpenAI(api_key="not-a-key", base_url=url, max_retries=0) as client:
        return client.chat.completions.create(
            model="m", messages=MESSAGES, extra_headers={"Helicone-User-Id": value}
        )


def tagged_by_httpx(url: str, value: str) -> Any:
    return httpx.post(url, headers={"X-User": value})


def tagged_by_requests(url: str, value: str) -> Any:
    return requests.post(url, headers={"X-User": value}, timeout=5)


@pytest.mark.parametrize("ask", [tagged_by_openai, tagged_by_httpx, tagged_by_requests])
@pytest.mark.parametrize("value", USERS_DATA)
def test_a_users_name_in_a_header_is_no_dead_key(
    ask: Callable[[str, str], Any], value: str, url: str
) -> None:
    """It is sent by one caller, and harms no target for the next."""
    try:
        ask(url, value)
    except Exception as error:
        verdict = classify(error)
    else:
        return  # requests sends letters of Latin-1
    if verdict.status is None:
        assert ErrorKind.AUTH_DEAD is not verdict.kind
        assert not verdict.harms_health


PAGE = "<!DOCTYPE html><html lang=en><title>Error 502 (Server Error)!!1</title>"


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ((PAGE, PAGE), ErrorKind.TRANSIENT),
        (("", ""), ErrorKind.TRANSIENT),
        (("no healthy upstream", "no healthy upstream"), ErrorKind.TRANSIENT),
        (("internal", {"error": "internal"}), ErrorKind.TRANSIENT),
        (("x", '{"error": "temporarily_unavailable"}'), ErrorKind.TRANSIENT),
        (("x", {"error": {"code": 503, "message": "x"}}), ErrorKind.TRANSIENT),
        (("x", {"error": {"code": 403, "message": "x"}}), ErrorKind.AUTH_DEAD),
        (("invalid_grant: Bad Request", {"error": "invalid_grant"}), ErrorKind.AUTH_DEAD),
        (("x", '{"error": "invalid_client"}'), ErrorKind.AUTH_DEAD),
        (("The credentials do not contain the necessary fields",), ErrorKind.AUTH_DEAD),
    ],
)
@pytest.mark.parametrize("name", ["RefreshError", "OAuthError"])
def test_only_a_refusal_of_a_token_server_is_a_dead_key(
    name: str, args: tuple[Any, ...], kind: ErrorKind
) -> None:
    """A gateway's page in its place, or a failure of the server itself, passes."""
    exceptions = pytest.importorskip("google.auth.exceptions")

    assert kind is classify(getattr(exceptions, name)(*args)).kind
