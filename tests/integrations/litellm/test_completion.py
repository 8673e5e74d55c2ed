"""What `completion` and `acompletion` pass to LiteLLM, and what they keep it from."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import litellm as bare
import pytest

from resilient_llm import (
    Attempt,
    ChainExhaustedError,
    ConfigurationError,
    Failover,
    Target,
    bench_model,
    chains,
    failover,
    health,
)
from resilient_llm.integrations import litellm
from resilient_llm.testing import capture_events
from tests.integrations.scenarios import MESSAGES, text_of_chunk
from tests.support.providers import Provider, limited, overloaded, refusal
from tests.support.stream_server import StreamServer, words

pytestmark = pytest.mark.usefixtures("resilient_llm")

LLAMA, MINI = "groq/llama-3.3-70b", "openai/gpt-5-mini"
GLOBALS = (
    "num_retries",
    "model_fallbacks",
    "fallbacks",
    "default_fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "callbacks",
    "success_callback",
    "failure_callback",
    "cache",
)
FORMS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _globals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave LiteLLM's globals as they were."""
    for name in GLOBALS:
        value = getattr(bare, name)
        monkeypatch.setattr(bare, name, list(value) if isinstance(value, list) else value)


class Two:
    """The two providers, and a chain of them."""

    def __init__(self, first: Provider, second: Provider) -> None:
        self.first, self.second = first, second
        self.chain = [
            Target(LLAMA, params={"api_base": first.url, "api_key": "key-1"}),
            Target(MINI, params={"api_base": second.url, "api_key": "key-2"}),
        ]

    @property
    def requests(self) -> tuple[int, int]:
        return len(self.first.requests), len(self.second.requests)


@pytest.fixture
def two() -> Iterator[Two]:
    with Provider("openai") as first, Provider("openai") as second:
        yield Two(first, second)


def call(is_async: bool, *args: Any, **kwargs: Any) -> Any:
    """Make a call in either form; read a stream to its end."""
    if not is_async:
        answer = litellm.completion(*args, **kwargs)
        assert isinstance(answer, bare.CustomStreamWrapper) is bool(kwargs.get("stream"))
        return list(answer) if kwargs.get("stream") else answer

    async def main() -> Any:
        answer: Any = await litellm.acompletion(*args, **kwargs)
        assert isinstance(answer, bare.CustomStreamWrapper) is bool(kwargs.get("stream"))
        return [item async for item in answer] if kwargs.get("stream") else answer

    return asyncio.run(main())


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


# --- chains and policies ---------------------------------------------------------------------------


@FORMS
def test_the_spec_is_litellms_model(two: Two, is_async: bool) -> None:
    """LiteLLM is given the spec as its model, and the params of the target."""
    answer = call(is_async, two.chain, MESSAGES)

    assert isinstance(answer, bare.ModelResponse)
    assert "openai says it depends." == text_of(answer)
    assert (1, 0) == two.requests
    request = two.first.requests[0]
    assert {"model": "llama-3.3-70b", "messages": MESSAGES} == request.body
    assert "Bearer key-1" == request.headers["authorization"]


@FORMS
@pytest.mark.parametrize("form", ["text", "list", "nested", "name"])
def test_any_form_of_chain(two: Two, form: str, is_async: bool) -> None:
    """A text, a list, a list of lists and a name are chains."""
    chains.define({"both": [LLAMA, MINI]})
    model = {
        "text": f"{LLAMA}, {MINI}",
        "list": [LLAMA, MINI],
        "nested": [[LLAMA], (MINI,)],
        "name": "@both",
    }[form]
    two.first.says(overloaded("openai", 503))
    keys = {"api_key": "a-key", "api_base": two.first.url}

    with pytest.raises(bare.ServiceUnavailableError):
        call(is_async, model, MESSAGES, policy=failover(attempts=1), **keys)

    assert ["llama-3.3-70b", "gpt-5-mini"] == [each.model for each in two.first.requests]


@FORMS
def test_a_chain_wins_over_that_of_the_policy(two: Two, is_async: bool) -> None:
    """The policy's chain is used if there is no other."""
    policy = failover(two.chain[:1], attempts=1)

    call(is_async, None, MESSAGES, policy=policy)
    call(is_async, messages=MESSAGES, policy=policy)
    call(is_async, two.chain[1], MESSAGES, policy=policy)

    assert (2, 1) == two.requests


@FORMS
def test_what_is_no_chain(is_async: bool) -> None:
    """Without a chain, with a wrong one or a wrong policy there is a ConfigurationError."""
    wrong: list[tuple[Any, Any, str]] = [
        (None, None, "model is None: expected a chain, or a policy that has one"),
        ([], None, "empty"),
        ([{"model": "x"}], None, "dict"),
        (MINI, "a policy", "policy of type str: expected what failover"),
        (MINI, failover, "policy of type function: expected what failover"),
    ]
    for model, policy, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            call(is_async, model, MESSAGES, policy=policy)


@FORMS
def test_accounts_have_keys_of_their_own(two: Two, is_async: bool) -> None:
    """A dead key harms its own account only, and LiteLLM sees the spec without it."""
    two.first.says(refusal("openai", 401, "invalid_request_error", "no", code="invalid_api_key"))
    chain = [
        Target(MINI, account="a", params={"api_base": two.first.url, "api_key": "key-1"}),
        Target(MINI, account="b", params={"api_base": two.second.url, "api_key": "key-2"}),
    ]

    for _ in range(2):
        call(is_async, chain, MESSAGES)

    assert (1, 2) == two.requests
    assert "gpt-5-mini" == two.first.requests[0].model
    assert "down" == health()["openai@a"].status
    assert "healthy" == health()["openai@b"].status


@FORMS
def test_options_of_the_policy_hold(two: Two, is_async: bool) -> None:
    """Options such as `reject` and `attempts` are those of the policy."""
    policy = failover(attempts=1, reject=lambda answer: answer.model.startswith("llama"))

    with capture_events() as events:
        answer = call(is_async, two.chain, MESSAGES, policy=policy)

    assert "gpt-5-mini" in answer.model
    assert (1, 1) == two.requests
    assert "bad_response" in [getattr(event, "kind", None) for event in events]


def test_a_policy_sees_the_messages(two: Two) -> None:
    """Options that read the arguments of a call read those of LiteLLM."""
    seen: list[Any] = []

    def tokens(messages: Any, temperature: float = 0.0, **more: Any) -> int:
        seen.append((messages, temperature))
        return 1

    litellm.completion(two.chain, MESSAGES, policy=failover(tokens=tokens), temperature=0.5)

    assert [(MESSAGES, 0.5)] == seen
    assert 0.5 == two.first.requests[0].body["temperature"]


# --- errors ------------------------------------------------------------------------------------------


@FORMS
def test_errors_are_litellms(two: Two, is_async: bool) -> None:
    """The last target's own error leaves, an error of LiteLLM."""
    two.first.says(overloaded("openai", 503))
    two.second.says(refusal("openai", 401, "invalid_request_error", "no", code="invalid_api_key"))

    with pytest.raises(bare.AuthenticationError):
        call(is_async, two.chain, MESSAGES, policy=failover(attempts=1))
    with pytest.raises(bare.ServiceUnavailableError):
        call(is_async, two.chain[0], MESSAGES, policy=failover(attempts=1))


@FORMS
def test_a_policy_may_ask_for_the_group(two: Two, is_async: bool) -> None:
    """A policy that names reraise=False gives a ChainExhaustedError."""
    two.first.says(overloaded("openai", 503))

    with pytest.raises(ChainExhaustedError) as raised:
        call(is_async, two.chain[0], MESSAGES, policy=failover(attempts=1, reraise=False))
    assert isinstance(raised.value.last_error, bare.ServiceUnavailableError)


@FORMS
def test_no_target_that_may_be_called(two: Two, is_async: bool) -> None:
    """If no target was called there is no error of LiteLLM to leave."""
    bench_model("groq")
    bench_model("openai")

    with pytest.raises(ChainExhaustedError):
        call(is_async, two.chain, MESSAGES)
    assert (0, 0) == two.requests


# --- LiteLLM's retries and fallbacks ---------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("error", [overloaded("openai", 503), limited("openai")])
def test_global_retries_are_off(two: Two, is_async: bool, error: Any) -> None:
    """One attempt is one request, whatever LiteLLM's globals say."""
    two.first.says(error)
    bare.num_retries = 3
    for name in ("fallbacks", "default_fallbacks"):
        setattr(bare, name, [{LLAMA: [MINI]}])
    bare.context_window_fallbacks = [{LLAMA: [MINI]}]

    call(is_async, two.chain, MESSAGES, policy=failover(attempts=1))

    assert (1, 1) == two.requests
    assert "0" == two.first.requests[0].headers.get("x-stainless-retry-count", "0")


@FORMS
def test_global_retries_are_off_for_streams(is_async: bool) -> None:
    """The same for a call that asks for a stream."""
    bare.num_retries = 3
    with StreamServer() as server:
        server.waits_for_client = False
        chain = [
            Target(spec, params={"api_base": server.url("openai", way), "api_key": "not-a-key"})
            for spec, way in ((LLAMA, "http-500"), (MINI, "healthy"))
        ]

        call(is_async, chain, MESSAGES, policy=failover(attempts=1), stream=True)

        assert (1, 1) == (server.asked("http-500"), server.asked("healthy"))


@FORMS
def test_global_fallbacks_that_cannot_be_turned_off(two: Two, is_async: bool) -> None:
    """A global list of models that LiteLLM always calls is refused."""
    bare.model_fallbacks = [MINI]

    with pytest.raises(ConfigurationError, match=r"litellm\.model_fallbacks is set"):
        call(is_async, two.chain, MESSAGES)
    assert (0, 0) == two.requests


@FORMS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_retries", 2),
        ("max_retries", 2),
        ("retry_policy", {"TimeoutErrorRetries": 2}),
        ("retry_strategy", "exponential_backoff_retry"),
        ("fallbacks", ["a secret model"]),
        ("context_window_fallback_dict", {"a secret model": "b"}),
        ("model_list", [{"model_name": "a secret model"}]),
    ],
)
def test_retries_and_fallbacks_of_a_call(two: Two, name: str, value: Any, is_async: bool) -> None:
    """An argument for LiteLLM's own is a ConfigurationError that says what to write instead."""
    for where in ("call", "target"):
        chain: Any = Target(MINI, params={name: value}) if where == "target" else two.chain
        passed = {} if where == "target" else {name: value}

        with pytest.raises(ConfigurationError, match=f"^{name}.*: LiteLLM's own is off") as raised:
            call(is_async, chain, MESSAGES, **passed)
        assert "secret" not in str(raised.value)
    assert (0, 0) == two.requests


@FORMS
def test_arguments_that_turn_off_what_is_off(two: Two, is_async: bool) -> None:
    """No retries and no fallbacks may be asked for."""
    off = {"num_retries": 0, "max_retries": 0, "fallbacks": None, "retry_policy": None}

    call(is_async, two.chain, MESSAGES, **off)

    assert {"model", "messages"} == set(two.first.requests[0].body)


# --- streams ---------------------------------------------------------------------------------------------


@FORMS
def test_a_stream(is_async: bool) -> None:
    """A stream is LiteLLM's own object, which is guarded until its end."""
    with StreamServer() as server:
        server.waits_for_client = False
        url = server.url("openai", "healthy")
        chain = Target(MINI, params={"api_base": url, "api_key": "not-a-key"})

        chunks = call(is_async, chain, MESSAGES, stream=True)

    assert "".join(words(5)) == "".join(text_of_chunk(chunk) for chunk in chunks)
    assert 1 == health()[MINI].total


# --- time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, (5.0, 5.0)),
        (2.0, (2.0, 2.0)),
        (60, (5.0, 5.0)),
        (httpx.Timeout(60.0, connect=1.0), (5.0, 1.0)),
        (httpx.Timeout(None, connect=1.0), (5.0, 1.0)),
        (httpx.Timeout(2.0), (2.0, 2.0)),
    ],
)
def test_sync_attempts_get_the_remaining_time(
    two: Two, monkeypatch: pytest.MonkeyPatch, given: Any, shown: tuple[float, float]
) -> None:
    """LiteLLM is given the time of the attempt, if the caller's own timeout is not shorter."""
    seen: list[Any] = []
    real = bare.completion

    def completion(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["timeout"])
        return real(*args, **kwargs)

    monkeypatch.setattr(bare, "completion", completion)
    more = {} if given is None else {"timeout": given}
    litellm.completion(two.chain[0], MESSAGES, policy=failover(attempt_timeout=5.0), **more)

    timeout = seen[0]
    read, connect = (
        (timeout.read, timeout.connect) if isinstance(timeout, httpx.Timeout) else (timeout,) * 2
    )
    assert shown == (pytest.approx(read, abs=0.5), pytest.approx(connect, abs=0.5))


@pytest.mark.parametrize("where", ["argument", "global"])
def test_a_shorter_request_timeout_stays(
    two: Two, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """LiteLLM's other names for a timeout count, too, if no ``timeout`` is given."""
    seen: list[Any] = []

    def completion(*args: Any, timeout: float, **kwargs: Any) -> Any:
        seen.append(timeout)

    monkeypatch.setattr(bare, "completion", completion)
    more = {"request_timeout": 2.0} if where == "argument" else {}
    if where == "global":
        monkeypatch.setattr(bare, "request_timeout", 2.0)
    policy = failover(timeout=30.0)
    litellm.completion(two.chain[0], MESSAGES, policy=policy, **more)
    litellm.completion(two.chain[0], MESSAGES, policy=policy, timeout=3.0, **more)

    assert [2.0, 3.0] == seen


def test_without_any_timeout_the_time_that_is_left_counts(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the application has taken LiteLLM's own timeout away."""
    seen: list[Any] = []

    def completion(*args: Any, timeout: float, **kwargs: Any) -> Any:
        seen.append(timeout)

    monkeypatch.setattr(bare, "completion", completion)
    monkeypatch.setattr(bare, "request_timeout", None)
    litellm.completion(two.chain[0], MESSAGES, policy=failover(timeout=30.0))

    assert [29.0] == seen


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [(22.4999, 22.0), (30.0, 29.0), (29.9999, 29.0), (0.5999, 0.59), (123.4, 120.0), (0.0, 0.0)],
)
def test_the_remaining_time_is_rounded_down(exact: float, rounded: float) -> None:
    """Equal calls give LiteLLM equal timeouts, for each of which it keeps a client."""
    assert rounded == litellm._rounded(exact)


def test_calls_with_a_limit_share_a_client(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit does not make LiteLLM build a client for each call."""
    seen: set[float] = set()
    real = bare.completion

    def completion(*args: Any, **kwargs: Any) -> Any:
        seen.add(kwargs["timeout"])
        return real(*args, **kwargs)

    monkeypatch.setattr(bare, "completion", completion)
    for _ in range(3):
        litellm.completion(two.chain[1], MESSAGES, policy=failover(timeout=30.0))

    assert {29.0} == seen


def test_without_a_limit_the_timeout_is_the_callers(two: Two) -> None:
    """Without a limit nothing is passed, and a text of the caller's stays what it is."""
    assert "text" == litellm._limited("text", 5.0)

    litellm.completion(two.chain[0], MESSAGES, timeout=7.0)

    assert 7.0 == float(two.first.requests[0].headers.get("x-stainless-read-timeout", "7"))


# --- what LiteLLM does besides -----------------------------------------------------------------------------


@FORMS
def test_mock_response(is_async: bool) -> None:
    """A mocked answer and a mocked error need no provider."""
    answer = call(is_async, [LLAMA, MINI], MESSAGES, mock_response="hello")

    assert "hello" == text_of(answer)
    with pytest.raises(bare.RateLimitError):
        call(
            is_async,
            MINI,
            MESSAGES,
            policy=failover(attempts=1),
            mock_response="litellm.RateLimitError",
        )
    assert health()["openai"].benched is not None or health()[MINI].benched is not None


def test_callbacks_see_each_attempt(two: Two) -> None:
    """A callback of LiteLLM is called for the failed attempt and for the good one."""
    from litellm.integrations.custom_logger import CustomLogger

    seen: set[str] = set()
    both = threading.Event()

    class Sees(CustomLogger):
        def _note(self, how: str, kwargs: Any) -> None:
            seen.add(f"{how} {kwargs['model']}")
            if len(seen) == 2:
                both.set()

        def log_success_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self._note("good", kwargs)

        def log_failure_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self._note("bad", kwargs)

    bare.callbacks = [Sees()]
    two.first.says(overloaded("openai", 503))

    litellm.completion(two.chain, MESSAGES, policy=failover(attempts=1))

    assert both.wait(20.0)
    assert {"bad llama-3.3-70b", "good gpt-5-mini"} == seen


def test_a_callable_of_a_target_is_called_instead(two: Two) -> None:
    """A target with `call=` is called itself, with the arguments of the call."""

    def mine(target: Target, messages: Any, **more: Any) -> Any:
        return [target.spec, messages, more]

    answer: Any = litellm.completion(Target(MINI, call=mine), MESSAGES, temperature=0)

    assert [MINI, MESSAGES, {"temperature": 0}] == answer


# --- policies that are kept ------------------------------------------------------------------------------


def test_a_chain_is_prepared_once(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls with equal chains and the same policy share one function; others do not."""
    made: list[Any] = []
    real = Failover.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        real(self, *args, **kwargs)

    policy = failover(attempts=2)
    monkeypatch.setattr(Failover, "__init__", counted)
    for _ in range(3):
        litellm.completion(list(two.chain), MESSAGES, policy=policy)
        litellm.completion(tuple(two.chain), MESSAGES, policy=policy)
    assert 1 == len(made)

    litellm.completion(two.chain[:1], MESSAGES, policy=policy)
    litellm.completion(two.chain, MESSAGES)
    assert 3 == len(made)


def test_what_is_kept_is_bounded() -> None:
    """A chain or a policy for each request leaves nothing behind."""
    kept: list[weakref.ref[Any]] = []
    for number in range(litellm._MOST_POLICIES + 50):
        policy = failover(attempts=1)
        kept.append(weakref.ref(policy))
        litellm.completion(f"openai/m{number % 7}", MESSAGES, policy=policy, mock_response="hi")
    del policy
    gc.collect()

    assert litellm._MOST_POLICIES >= sum(each() is not None for each in kept)


def test_a_chain_that_cannot_be_a_key(two: Two) -> None:
    """A chain that has no hash is called all the same."""

    class Chain(list[Any]):
        __hash__ = None  # type: ignore[assignment]

    litellm.completion(Chain(two.chain), MESSAGES)

    assert (1, 0) == two.requests


def test_they_are_what_they_look_like() -> None:
    """The asynchronous function is a coroutine function, and both have LiteLLM's first arguments."""
    assert inspect.iscoroutinefunction(litellm.acompletion)
    assert not inspect.iscoroutinefunction(litellm.completion)
    assert ["model", "messages", "policy", "kwargs"] == list(
        inspect.signature(litellm.completion).parameters
    )
    assert Attempt.__name__ in litellm._complete.__annotations__["attempt"]
