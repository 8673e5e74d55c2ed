"""`needs=` and `tokens=`: which targets a call skips, and what it ends with if none is left."""

from __future__ import annotations

import gc
import logging
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    FailedOver,
    NoCapableTargetError,
    Target,
    TargetSkipped,
    Trace,
    bench_model,
    breaker,
    configure,
    failover,
    observe,
    strategies,
)
from resilient_llm.needs import from_messages
from resilient_llm.testing import FakeClock, capture_events
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    SYNC_DRIVERS,
    Driver,
    Script,
    down,
    over,
    rate_limited,
    run_async,
)

TEXT_ONLY = Target(GROQ, supports=())
TOOLS = Target(OPENAI, supports=("tools",))
UNKNOWN = Target(MISTRAL)


def key_of(target: Target) -> str:
    """Stands for a provider that answers."""
    return target.key


def answer(target: Target, prompt: str = "") -> str:
    """The same with an argument."""
    return target.key


def ask_with(*chain: Target | str, **options: Any) -> Callable[..., str]:
    """Return a decorated function that gives the key of the target that was called."""

    @failover(list(chain), **options)
    def ask(target: Target, prompt: str = "", **kwargs: Any) -> str:
        return target.key

    return ask


# --- words --------------------------------------------------------------------------------------


@over(DRIVERS)
def test_a_target_that_lacks_a_word_is_skipped(driver: Driver) -> None:
    """Every way to write a call passes it over and records why."""
    policy = failover([TEXT_ONLY, TOOLS], needs=("vision", "tools"))
    policy = policy.using(chain=[TEXT_ONLY, Target(OPENAI, supports=("vision", "tools"))])

    with Trace() as trace, capture_events(TargetSkipped) as skipped:
        served_by = driver.run(policy, key_of)

    assert OPENAI == served_by == trace.served_by
    assert [(GROQ, "lacks tools, vision", 0), (OPENAI, "", 1)] == [
        (each.target, each.reason, each.number) for each in trace.attempts
    ]
    assert [(GROQ, "lacks tools, vision")] == [(each.target, each.reason) for each in skipped]


@over(DRIVERS)
def test_nobody_need_listen_for_a_target_to_be_skipped(driver: Driver) -> None:
    """Without a trace and observers the first target that can take it is called as well."""
    script = Script({GROQ: ["wrong"], OPENAI: ["right"]})

    assert "right" == driver.run(failover([TEXT_ONLY, TOOLS], needs="tools"), script)
    assert [OPENAI] == script.calls


@pytest.mark.parametrize(
    ("supports", "is_called"),
    [(None, True), ((), False), ("tools", True), (["tools", "audio"], True), ("audio", False)],
)
def test_what_a_target_supports(supports: Any, is_called: bool) -> None:
    """None is unknown and fits every call, nothing fits none, and a single text is one word."""
    ask = ask_with(Target(GROQ, supports=supports), OPENAI, needs="tools")

    assert (GROQ if is_called else OPENAI) == ask()


@pytest.mark.parametrize("needs", [None, (), [], frozenset()])
def test_a_call_that_needs_nothing_goes_anywhere(needs: Any) -> None:
    """No words fit a target that supports nothing."""
    assert GROQ == ask_with(TEXT_ONLY, TOOLS, needs=needs)()


def test_a_skipped_target_between_two_others() -> None:
    """After a failure the call goes on with the next target that can take it."""
    script = Script({OPENAI: [down], GROQ: ["wrong"], MISTRAL: ["right"]})
    policy = failover([TOOLS, TEXT_ONLY, UNKNOWN], needs="tools", attempts=1)

    with capture_events(AttemptFailed, TargetSkipped, FailedOver, AttemptSucceeded) as seen:
        assert "right" == policy.call(script.__call__)

    assert [OPENAI, MISTRAL] == script.calls
    assert [
        ("AttemptFailed", OPENAI),
        ("TargetSkipped", GROQ),
        ("FailedOver", OPENAI),
        ("AttemptSucceeded", MISTRAL),
    ] == [(type(each).__name__, each.target) for each in seen]


def test_the_error_at_the_end_has_a_member_for_a_skipped_target() -> None:
    """It says why the target was not called, and when to come back depends on the others."""
    policy = failover([TEXT_ONLY, TOOLS], needs="tools", attempts=1)

    with pytest.raises(ChainExhaustedError) as caught:
        policy.call(Script({OPENAI: [down]}).__call__)

    skipped, failed = caught.value.exceptions
    assert type(skipped) is CallRejectedError
    assert (GROQ, "lacks tools") == (skipped.target, skipped.reason)
    assert caught.value.last_error is failed
    assert f"{GROQ}: skipped (lacks tools)" in str(caught.value)


def test_who_cannot_take_a_call_does_not_say_when_to_come_back(clock: FakeClock) -> None:
    """The target that is live, but lacks a word, is not worth another try."""
    bench_model(OPENAI, 60.0)

    with pytest.raises(ChainExhaustedError) as caught:
        ask_with(TEXT_ONLY, TOOLS, needs="tools", when_all_benched="raise")()

    assert 60.0 == pytest.approx(caught.value.retry_after)


def test_health_is_untouched() -> None:
    """A skip is no failure of the target."""
    ask_with(TEXT_ONLY, TOOLS, needs="tools")()

    assert "closed" == breaker(GROQ).state
    assert GROQ == ask_with(TEXT_ONLY, TOOLS)()


def test_a_strategy_comes_first() -> None:
    """It gets every target; what it puts in order is then looked at."""
    given: list[tuple[Target, ...]] = []

    def backwards(targets: tuple[Target, ...]) -> list[Target]:
        given.append(targets)
        return list(reversed(targets))

    ask = ask_with(TOOLS, UNKNOWN, TEXT_ONLY, needs="tools", strategy=backwards)

    assert MISTRAL == ask()
    assert [(TOOLS, UNKNOWN, TEXT_ONLY)] == given


def test_a_copy_may_need_something_else() -> None:
    """`using` takes the options as `failover` does."""
    ask: Any = ask_with(TEXT_ONLY, TOOLS, needs="tools")

    assert (OPENAI, GROQ) == (ask(), ask.using(needs=None)())


# --- a function of the arguments ------------------------------------------------------------------


@pytest.mark.parametrize("option", ["needs", "tokens"])
def test_the_function_gets_the_arguments_as_they_are_passed(option: str) -> None:
    """By position or by name, without defaults, and without the target and the attempt."""
    seen: list[Any] = []

    def asked(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return 1 if option == "tokens" else None

    options: dict[str, Any] = {option: asked}

    @failover([GROQ], **options)
    def ask(target: Target, prompt: str, top: int = 3, *, attempt: Attempt, **more: Any) -> str:
        return f"{prompt} {top}"

    answers = [
        ask("Hi", more=1),  # type: ignore[call-arg]  # filled in
        ask(prompt="Ho", top=4),  # type: ignore[call-arg]  # filled in
        ask("He", 5),  # type: ignore[call-arg]  # filled in
    ]

    assert ["Hi 3", "Ho 4", "He 5"] == answers
    assert [(("Hi",), {"more": 1}), ((), {"prompt": "Ho", "top": 4}), (("He", 5), {})] == seen


Messages = list[dict[str, str]]


@pytest.mark.parametrize("option", ["needs", "tokens", "key"])
def test_a_function_that_names_one_argument_takes_the_rest_by_name(option: str) -> None:
    """`lambda messages, **_` works for every way in which the others may be passed or left out."""
    seen: list[Any] = []

    def asked(messages: Messages, **_: Any) -> Any:
        seen.append(messages)
        return 60 if option == "tokens" else "tools"

    named: dict[str, Any] = (
        {"strategy": strategies.sticky(asked)} if option == "key" else {option: asked}
    )
    chain = [Target(GROQ, supports=("tools",), context_window=70)]

    @failover(chain, **named)
    def ask(target: Target, messages: Messages, tools: Any = None, *, top: int = 1) -> str:
        return f"{tools} {top}"

    @failover(chain, **named)
    async def ask_async(messages: Messages, tools: Any = None, *, target: Any = None) -> str:
        return f"{tools}"

    @failover(chain, **named)
    def stream(target: Target, messages: Messages, tools: Any = None) -> Iterator[str]:
        yield f"{tools}"

    for _ in range(2):  # the first call binds
        assert "None 1" == ask([])
        assert "x 2" == ask([], tools="x", top=2)
        assert "None 1" == ask(messages=[])
        assert "None" == run_async(ask_async, [])
        assert "x" == run_async(partial(ask_async, messages=[], tools="x"))
        assert ["None"] == list(stream([]))
    assert [[]] * 12 == seen


def test_a_method_passes_its_object_and_what_the_caller_wrote() -> None:
    """A pin and a default are no arguments of such a function."""
    seen: list[Any] = []

    class Client:
        @failover(
            [Target(GROQ, supports=("tools",)), OPENAI],
            needs=lambda client, messages, **_: seen.append((client, messages)),
        )
        def ask(self, messages: str, tools: Any = None, *, target: Target | None = None) -> str:
            return "" if target is None else target.key

    client = Client()

    assert (GROQ, OPENAI) == (client.ask("Hi"), client.ask(messages="Ho", target=OPENAI))  # type: ignore[arg-type]  # a spec is one
    assert [(client, "Hi"), (client, "Ho")] == seen


def test_what_reads_arguments_by_name_sees_defaults() -> None:
    """Also beside a function that gets the arguments as they are passed."""

    @failover([TEXT_ONLY, TOOLS], needs=from_messages(), tokens=lambda messages, **_: len(messages))
    def ask(target: Target, messages: Messages, tools: Any = ("weather",)) -> str:
        return target.key

    assert [OPENAI, GROQ] == [ask([]), ask([], tools=None)]


def test_a_copy_gets_the_arguments_as_they_are_passed() -> None:
    """`.using()` may ask a function where the original asked none, and the other way round."""
    seen: list[Any] = []

    @failover([GROQ])
    def ask(target: Target, prompt: str, top: int = 3) -> str:
        return f"{prompt} {top}"

    asking = ask.using(needs=lambda *args, **kwargs: seen.append((args, kwargs)))

    assert ["Hi 3", "Hi 3", "Hi 4"] == [ask("Hi"), asking("Hi"), asking.using(needs=None)("Hi", 4)]
    assert "Hi 3" == asking("Hi")
    assert [(("Hi",), {})] * 2 == seen


@pytest.mark.parametrize("option", ["needs", "tokens", "key"])
@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda messages: None,
        lambda messages, tools, top, more: None,
        lambda *, prompt: None,
        lambda messages, top, *, tools, more: None,
    ],
    ids=["none", "too few", "too many", "another name", "one more"],
)
def test_a_function_that_can_take_no_call_is_refused(option: str, function: Any) -> None:
    """Where it is written; whatever the caller passes, it could not be called."""
    named: dict[str, Any] = (
        {"strategy": strategies.sticky(function)} if option == "key" else {option: function}
    )

    def ask(target: Target, messages: Messages, /, tools: Any, top: int = 1) -> str:
        return ""

    for refused in (
        lambda: failover([GROQ], **named)(ask),
        lambda: failover([GROQ])(ask).using(**named),
        lambda: failover([GROQ], **named).call(ask, [], None),
    ):
        with pytest.raises(ConfigurationError, match=f"{option} is a function that cannot take"):
            refused()


@pytest.mark.parametrize(
    "function",
    [
        lambda messages, tools: None,
        lambda messages, tools, top: None,
        lambda messages, *, tools, top: None,
        lambda first, *, tools: None,
        lambda *args, top=2: None,
        lambda messages, tools, **_: None,
        max,
    ],
)
def test_a_function_that_can_take_some_call_is_not_refused(function: Any) -> None:
    """Who always passes what it asks for may use it."""

    def ask(target: Target, messages: Messages, /, tools: Any, top: int = 1) -> str:
        return ""

    failover([GROQ], needs=function, tokens=function)(ask)


@pytest.mark.parametrize("function", [lambda a, b, c: None, lambda *, a, b: None, lambda: None])
def test_a_function_is_not_refused_where_any_argument_may_be_passed(function: Any) -> None:
    """The decorated function takes what it is given."""

    def ask(target: Target, *args: Any, **kwargs: Any) -> str:
        return ""

    failover([GROQ], needs=function)(ask)


def test_the_function_gets_self_and_no_pin() -> None:
    """A method's object is an argument; ``target=`` says where the call goes."""
    seen: list[Any] = []

    class Client:
        @failover([GROQ, OPENAI], needs=lambda *args, **kwargs: seen.append((args, kwargs)))
        def ask(self, prompt: str, *, target: Target | None = None) -> str:
            assert target is not None
            return target.key

    client = Client()

    assert OPENAI == client.ask("Hi", target=OPENAI)  # type: ignore[arg-type]  # a spec is one
    assert [((client, "Hi"), {})] == seen


def test_the_function_gets_what_policy_call_was_given() -> None:
    """Without the function that is called."""
    seen: list[Any] = []
    policy = failover([GROQ], needs=lambda *args, **kwargs: seen.append((args, kwargs)))

    assert GROQ == policy.call(answer, "Hi")
    assert GROQ == policy.call(answer, prompt="Hi")
    assert [(("Hi",), {}), ((), {"prompt": "Hi"})] == seen


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, GROQ),
        ((), GROQ),
        ("tools", OPENAI),
        (["tools"], OPENAI),
        ({"tools"}, OPENAI),
        ((word for word in ["tools"]), OPENAI),
    ],
)
def test_the_function_gives_words_or_none(given: Any, expected: str) -> None:
    """A single text is one word, here as well."""
    assert expected == ask_with(TEXT_ONLY, TOOLS, needs=lambda prompt: given)("Hi")


def test_each_call_is_asked_about() -> None:
    """What one call needs is nothing to the next one."""
    ask = ask_with(TEXT_ONLY, TOOLS, needs=lambda prompt: "tools" if "!" in prompt else None)

    assert [GROQ, OPENAI, GROQ] == [ask("a"), ask("b!"), ask("c")]


@over([each for each in DRIVERS if "loop" not in each.name])
def test_an_error_of_the_function_leaves_the_call(driver: Driver) -> None:
    """Nothing is sent, no target is blamed, and the call has failed."""
    script = Script({GROQ: ["sent"]})

    def needs(*args: Any) -> None:
        raise KeyError("mine")

    with (
        capture_events(TargetSkipped, CallFailed, AttemptFailed) as seen,
        Trace(),
        pytest.raises(KeyError, match="mine"),
    ):
        driver.run(failover([GROQ], needs=needs), script)

    assert [] == script.calls
    assert [("CallFailed", 0, ErrorKind.CALLER_BUG)] == [
        (type(each).__name__, each.attempts, each.kind)  # type: ignore[attr-defined]  # of CallFailed
        for each in seen
    ]


@pytest.mark.parametrize(
    "given", [3, True, [3], object(), "", "two words", ["a" * 41], "a\nb", ["x"] * 200]
)
def test_what_is_no_word_is_refused(given: Any) -> None:
    """What may be a prompt is not shown, since events and messages show words."""
    with pytest.raises(ConfigurationError, match="needs") as at_call:
        ask_with(TEXT_ONLY, needs=lambda prompt: given)("Hi")
    with pytest.raises(ConfigurationError, match="needs"):
        failover(GROQ, needs=given)
    with pytest.raises(ConfigurationError, match="supports"):
        Target(GROQ, supports=given)

    assert not isinstance(given, str) or not given or given not in str(at_call.value)


@pytest.mark.parametrize(
    "given", ["tools,vision", ["tools", "vision,audio"], "tools;vision", "tools|vision", ","]
)
def test_several_words_in_one_text_are_refused(given: Any) -> None:
    """As one word they would match nothing; the message shows a list, and not the text."""
    said = r"several words in it, which is not allowed: write a list .*\['tools', 'vision'\]"

    with pytest.raises(ConfigurationError, match=f"^needs .*{said}"):
        failover(GROQ, needs=given)
    with pytest.raises(ConfigurationError, match=f"^supports .*{said}"):
        Target(GROQ, supports=given)
    with pytest.raises(ConfigurationError, match=f"^needs .*{said}") as at_call:
        ask_with(TEXT_ONLY, needs=lambda prompt: given)("Hi")

    assert "audio" not in str(at_call.value)


def test_words_without_end_are_refused() -> None:
    """A generator that never ends does not hang the call."""

    def words(prompt: str) -> Iterator[str]:
        while True:
            yield "tools"

    with pytest.raises(ConfigurationError, match="more than 100 words"):
        ask_with(GROQ, needs=words)("Hi")


@pytest.mark.parametrize("option", ["needs", "tokens"])
def test_a_coroutine_function_is_refused_where_it_is_written(option: str) -> None:
    """Its result is used at once."""

    async def later(*args: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match=f"{option} is an async function"):
        failover(GROQ, **{option: later})  # type: ignore[arg-type]  # the mistake


# --- in a loop ------------------------------------------------------------------------------------


def test_a_loop_has_no_arguments_to_ask_about() -> None:
    """A function for ``needs`` is an error when the loop begins, and shows what to write."""
    policy = failover([GROQ], needs=lambda *args: None)

    async def loop() -> None:
        async for _ in policy:
            raise AssertionError("not reached")

    with pytest.raises(ConfigurationError, match=r"needs=\('tools',\)"):
        iter(policy)
    with pytest.raises(ConfigurationError, match="a loop has none"):
        run_async(loop)


def test_a_loop_estimates_nothing() -> None:
    """A function for ``tokens`` is not asked: only what the answer may take counts."""
    asked: list[Any] = []
    small = Target(GROQ, context_window=100, params={"max_tokens": 101})
    policy = failover([small, Target(OPENAI, context_window=100)], tokens=asked.append)  # type: ignore[arg-type]  # not called

    for attempt in policy:
        with attempt as target:
            called = target.key

    assert OPENAI == called
    assert [] == asked


def test_a_loop_takes_a_number_of_tokens() -> None:
    """A whole number needs no arguments."""
    for attempt in failover([Target(GROQ, context_window=100), OPENAI], tokens=101):
        with attempt as target:
            called = target.key

    assert OPENAI == called


# --- context windows ------------------------------------------------------------------------------


@over(DRIVERS)
def test_a_window_that_is_too_small_is_skipped(driver: Driver) -> None:
    """The reason is the same as for a request that a provider found too long."""
    policy = failover([Target(GROQ, context_window=99), TOOLS], tokens=100)

    with Trace() as trace:
        assert OPENAI == driver.run(policy, key_of)

    assert [(GROQ, "context_window"), (OPENAI, "")] == [
        (each.target, each.reason) for each in trace.attempts
    ]


@pytest.mark.parametrize("tokens", [None, 0, 100, lambda prompt, **_: len(prompt)])
def test_what_fits_is_called(tokens: Any) -> None:
    """None checks no window; one that is filled is large enough."""
    assert GROQ == ask_with(Target(GROQ, context_window=100), OPENAI, tokens=tokens)("x" * 100)


def test_without_an_estimate_no_window_is_checked() -> None:
    """Not even against the longest answer."""
    assert GROQ == ask_with(Target(GROQ, context_window=1), OPENAI)("Hi", max_tokens=1000)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_longest_answer_takes_its_part(name: str) -> None:
    """Whatever the provider calls it."""
    ask = ask_with(Target(GROQ, context_window=100), OPENAI, tokens=60)

    assert (GROQ, OPENAI) == (ask("Hi", **{name: 40}), ask("Hi", **{name: 41}))


def test_the_longest_answer_may_be_passed_by_position_or_be_a_default() -> None:
    """As far as the signature of the function says so."""

    @failover([Target(GROQ, context_window=100), OPENAI], tokens=60)
    def ask(target: Target, prompt: str, max_tokens: int | None = 41) -> str:
        return target.key

    assert [OPENAI, GROQ, GROQ, OPENAI] == [
        ask("Hi"),
        ask("Hi", 40),
        ask("Hi", None),
        ask("Hi", 41),
    ]


def test_the_longest_answer_may_be_a_default_of_what_policy_call_calls() -> None:
    """Nobody passes it then."""

    def ask(target: Target, *, max_tokens: int = 41) -> str:
        return target.key

    policy = failover([Target(GROQ, context_window=100), OPENAI], tokens=60)

    assert (OPENAI, GROQ) == (policy.call(ask), policy.call(ask, max_tokens=40))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, OPENAI),
        ({"max_tokens": 40}, GROQ),
        ({"max_tokens": 41}, OPENAI),
        ({"max_tokens": Target.UNSET}, GROQ),
        ({"max_output_tokens": 60}, OPENAI),
    ],
)
def test_params_of_a_target_come_before_the_arguments(
    params: dict[str, Any], expected: str
) -> None:
    """What the target is called with counts."""
    ask = ask_with(Target(GROQ, context_window=100, params=params), OPENAI, tokens=60)

    assert expected == ask("Hi", max_tokens=50)


@pytest.mark.parametrize("config", [{"max_output_tokens": 41}, "object"])
def test_google_takes_the_longest_answer_in_a_config(config: Any) -> None:
    """As a dict or as the SDK's object."""
    if config == "object":
        types = pytest.importorskip("google.genai.types")
        config = types.GenerateContentConfig(max_output_tokens=41)
    ask = ask_with(Target(GROQ, context_window=100), OPENAI, tokens=60)

    assert OPENAI == ask("Hi", config=config)


@pytest.mark.parametrize("value", [None, "many", -1000, 1.5, True, object()])
def test_a_longest_answer_that_is_no_number_counts_as_unknown(value: object) -> None:
    """The provider will say what is wrong with it."""
    ask = ask_with(Target(GROQ, context_window=100), OPENAI, tokens=100)

    assert GROQ == ask("Hi", max_tokens=value)


# --- the rule for errors of tokens ----------------------------------------------------------------


def raising(prompt: str) -> int:
    raise ValueError(f"cannot count {prompt}")


@pytest.mark.parametrize(
    "tokens",
    [
        raising,
        lambda prompt: -1,
        lambda prompt: 1.5,
        lambda prompt: "12",
        lambda prompt: None,
        lambda prompt: True,
        lambda prompt: 10**30,
        lambda: 12,
    ],
)
def test_an_estimate_that_fails_is_replaced(tokens: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The default estimate is used instead, and the log says so once, without the prompt."""
    secret = "secret prompt " * 10
    ask = ask_with(
        Target(GROQ, context_window=34), Target(OPENAI, context_window=35), tokens=tokens
    )

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        called = [ask(secret) for _ in range(3)]

    assert [OPENAI] * 3 == called  # 140 characters are 35 tokens
    [line] = [each.getMessage() for each in caplog.records]
    assert "the default estimate is used" in line
    assert "ask_with" in line
    assert "secret" not in line


def test_an_estimate_may_be_any_whole_number() -> None:
    """What counts tokens may have integers of its own."""

    class Tokens:
        def __index__(self) -> int:
            return 101

    ask = ask_with(Target(GROQ, context_window=100), OPENAI, tokens=lambda prompt: Tokens())  # type: ignore[arg-type, return-value]  # as numpy has

    assert OPENAI == ask("Hi")


def test_nothing_is_logged_where_the_log_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """`configure(logging=False)` is for all lines."""
    configure(logging=False)

    with caplog.at_level(logging.DEBUG, "resilient_llm"):
        ask_with(Target(GROQ, context_window=100), tokens=raising)("Hi")

    assert [] == caplog.records


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_an_estimate_leaves(error: type[BaseException]) -> None:
    """It is no failure of the function."""

    def tokens(prompt: str) -> int:
        raise error

    with pytest.raises(error):
        ask_with(Target(GROQ, context_window=100), tokens=tokens)("Hi")


def test_a_time_limit_inside_an_estimate_leaves() -> None:
    """A worker's time limit may end wherever it hits, and no further work may follow."""
    limit = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "billiard.exceptions"})
    script = Script({GROQ: ["sent"]})

    def tokens(*args: Any) -> int:
        raise limit

    with pytest.raises(limit):
        failover([Target(GROQ, context_window=100)], tokens=tokens).call(script.__call__)
    assert [] == script.calls


# --- nobody can take it ---------------------------------------------------------------------------


@over(DRIVERS)
def test_a_call_that_nobody_can_take_ends_at_once(driver: Driver, clock: FakeClock) -> None:
    """It says what is missing where; nothing is sent and nothing is waited for."""
    script = Script({GROQ: ["sent"], OPENAI: ["sent"]})
    small = Target(OPENAI, context_window=9)
    policy = failover(
        [TEXT_ONLY, small], needs=("vision", "tools"), tokens=10, when_all_benched="wait"
    )

    with pytest.raises(NoCapableTargetError) as caught:
        driver.run(policy, script)

    error = caught.value
    assert (("tools", "vision"), 10) == (error.needs, error.tokens)
    assert {GROQ: ("tools", "vision"), OPENAI: ("context_window",)} == error.missing
    assert isinstance(error, CallRejectedError)
    assert (
        "groq/llama lacks tools, vision; "
        "openai/gpt has a context window that is too small for about 10 tokens"
    ) in str(error)
    assert [] == script.calls
    assert [] == clock.sleeps


@over(DRIVERS)
def test_a_call_that_nobody_can_take_has_failed(driver: Driver) -> None:
    """Its skips and its end are emitted and traced as those of other calls."""
    policy = failover([TEXT_ONLY, TOOLS], needs="vision")

    with (
        Trace() as trace,
        capture_events(TargetSkipped, CallFailed, AttemptSucceeded, AttemptFailed) as seen,
        pytest.raises(NoCapableTargetError),
    ):
        driver.run(policy, key_of)

    [call] = trace.calls
    assert [(GROQ, "lacks vision", 0), (OPENAI, "lacks vision", 0)] == [
        (each.target, each.reason, each.number) for each in call.attempts
    ]
    assert call.served_by is None
    assert {call.call_id} == {each.call_id for each in seen}
    assert ["TargetSkipped", "TargetSkipped", "CallFailed"] == [
        type(each).__name__ for each in seen
    ]
    failed = seen[-1]
    assert isinstance(failed, CallFailed)
    assert (0, ErrorKind.REJECTED) == (failed.attempts, failed.kind)


def test_the_observers_of_the_policy_are_told() -> None:
    """They get the same events."""
    seen: list[Any] = []
    ask = ask_with(TEXT_ONLY, needs="tools", observers=(seen.append,))

    with pytest.raises(NoCapableTargetError):
        ask()

    assert ["TargetSkipped", "CallFailed"] == [type(each).__name__ for each in seen]


def test_without_an_estimate_the_error_has_no_tokens() -> None:
    """None says that no window was checked."""
    with pytest.raises(NoCapableTargetError) as caught:
        ask_with(TEXT_ONLY, needs="tools")()

    assert caught.value.tokens is None


def test_the_error_is_raised_with_the_first_item_of_a_generator_function() -> None:
    """The call of such a function begins when its first item is asked for."""

    @failover([TEXT_ONLY], needs="tools")
    def items(target: Target) -> Iterator[str]:
        yield target.key

    stream = items()

    with pytest.raises(NoCapableTargetError):
        next(stream)


def test_the_error_is_raised_with_the_first_item_of_an_async_generator_function() -> None:
    """The same in asynchronous code."""

    @failover([TEXT_ONLY], needs="tools")
    async def items(target: Target) -> Any:
        yield target.key

    async def main() -> list[str]:
        return [item async for item in items()]

    with pytest.raises(NoCapableTargetError):
        run_async(main)


def test_a_stream_goes_to_who_can_take_it() -> None:
    """Generator functions skip targets as others do."""

    @failover([TEXT_ONLY, TOOLS], needs=lambda prompt: "tools")
    def items(target: Target, prompt: str) -> Iterator[str]:
        yield target.key

    with Trace() as trace:
        assert [OPENAI] == list(items("Hi"))

    assert [(GROQ, "lacks tools"), (OPENAI, "")] == [
        (each.target, each.reason) for each in trace.attempts
    ]


def test_a_broken_stream_goes_on_with_who_can_take_it() -> None:
    """A restart after an interruption skips the same targets."""
    from resilient_llm import StreamPolicy

    @failover(
        [TOOLS, TEXT_ONLY, UNKNOWN],
        needs="tools",
        attempts=1,
        stream=StreamPolicy(on_interrupt="restart", on_truncated="accept"),
    )
    def items(target: Target) -> Iterator[str]:
        yield target.key
        if target.key == OPENAI:
            raise down()

    assert [OPENAI, MISTRAL] == list(items())


def test_the_error_survives_pickling() -> None:
    """Worker processes hand errors on."""
    small = Target(OPENAI, context_window=2)
    with pytest.raises(NoCapableTargetError) as caught:
        ask_with(TEXT_ONLY, small, needs="tools", tokens=3)()

    copied = pickle.loads(pickle.dumps(caught.value))

    assert (("tools",), 3) == (copied.needs, copied.tokens)
    assert {GROQ: ("tools",), OPENAI: ("context_window",)} == copied.missing
    assert str(caught.value) == str(copied)


def test_the_error_says_what_a_window_is_too_small_for() -> None:
    """The input and, as each target has it, the longest answer; ``.tokens`` is the input."""
    small = Target(GROQ, context_window=900)
    smaller = Target(OPENAI, context_window=900, params={"max_tokens": 1})
    ask = ask_with(small, smaller, tokens=1_000)

    with pytest.raises(NoCapableTargetError) as caught:
        ask("secret", max_tokens=200)

    assert 1_000 == caught.value.tokens
    assert str(caught.value).endswith(
        "groq/llama has a context window that is too small for about 1,200 tokens; "
        "openai/gpt has a context window that is too small for about 1,001 tokens"
    )


def test_a_word_that_is_called_as_the_window_is_a_word() -> None:
    """No window is said to be too small where none is."""
    with pytest.raises(NoCapableTargetError, match=r"groq/llama lacks context_window$"):
        ask_with(TEXT_ONLY, needs="context_window", tokens=3)()


def test_an_outer_chain_goes_on_with_its_next_target() -> None:
    """What nobody inside could take is an error of an inner guard, which harms no health."""
    inner = ask_with(TEXT_ONLY, needs="tools")

    @failover(["outer/a", "outer/b"])
    def outer(target: Target) -> str:
        return inner() if target.key == "outer/a" else target.key

    assert "outer/b" == outer()
    assert "closed" == breaker("outer/a").state


# --- pinned ---------------------------------------------------------------------------------------


def ask_by_name(prompt: str = "", *, target: Target | None = None) -> str:
    assert target is not None
    return target.key


def test_a_pinned_call_needs_the_same() -> None:
    """If this target cannot take it, no other is asked."""
    ask: Any = failover([TEXT_ONLY, TOOLS], needs="tools")(ask_by_name)

    with pytest.raises(NoCapableTargetError) as caught:
        ask(target=GROQ)

    assert {GROQ: ("tools",)} == caught.value.missing
    assert OPENAI == ask(target=OPENAI)
    assert OPENAI == ask()


def test_a_pinned_call_must_fit_the_window() -> None:
    """The other target's window is not looked at."""
    ask: Any = failover([Target(GROQ, context_window=9), OPENAI], tokens=10)(ask_by_name)

    with pytest.raises(NoCapableTargetError) as caught:
        ask(target=GROQ)

    assert {GROQ: ("context_window",)} == caught.value.missing


# --- capable but benched --------------------------------------------------------------------------


def bench(key: str) -> None:
    """Bench a target automatically, for 30 s."""
    for _ in range(5):
        breaker(key).record(down(), 0.1)


@over(DRIVERS)
def test_a_benched_target_that_can_take_it_is_the_last_resort(
    driver: Driver, clock: FakeClock
) -> None:
    """A live one that lacks a word is not: the rule for benches is asked."""
    bench(OPENAI)
    script = Script({GROQ: ["wrong"], OPENAI: ["right"]})

    assert "right" == driver.run(failover([TEXT_ONLY, TOOLS], needs="tools"), script)
    assert [OPENAI] == script.calls


@over(DRIVERS)
def test_a_benched_target_that_lacks_a_word_is_no_last_resort(
    driver: Driver, clock: FakeClock
) -> None:
    """Even where it would recover first."""
    bench(GROQ)
    clock.advance(10.0)
    bench(OPENAI)
    script = Script({GROQ: ["wrong"], OPENAI: ["right"]})

    assert "right" == driver.run(failover([TEXT_ONLY, TOOLS], needs="tools"), script)
    assert [OPENAI] == script.calls


@over(DRIVERS)
def test_a_benched_target_that_can_take_it_is_waited_for(driver: Driver, clock: FakeClock) -> None:
    """Who lacks a word is live, and still the call waits."""
    bench(OPENAI)
    script = Script({GROQ: ["wrong"], OPENAI: ["right"]})
    policy = failover([TEXT_ONLY, TOOLS], needs="tools", when_all_benched="wait")

    assert "right" == driver.run(policy, script)
    assert [OPENAI] == script.calls
    assert 30.0 <= sum(clock.sleeps) <= 34.0


def test_a_bench_of_who_lacks_a_word_is_not_waited_for(clock: FakeClock) -> None:
    """Its end would change nothing."""
    bench_model(GROQ, 5.0)
    bench_model(OPENAI, 20.0)
    ask = ask_with(TEXT_ONLY, TOOLS, needs="tools", when_all_benched="wait")

    assert OPENAI == ask()
    assert 20.0 == pytest.approx(sum(clock.sleeps))


def test_a_benched_target_that_can_take_it_raises(clock: FakeClock) -> None:
    """With ``raise`` the error is that of any call whose targets are benched."""
    bench(OPENAI)

    with pytest.raises(ChainExhaustedError) as caught:
        ask_with(TEXT_ONLY, TOOLS, needs="tools", when_all_benched="raise")()

    assert [CallRejectedError, "BreakerOpenError"] == [
        type(caught.value.exceptions[0]),
        type(caught.value.exceptions[1]).__name__,
    ]


# --- who else is live -----------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [(TOOLS, TEXT_ONLY), (TEXT_ONLY, TOOLS)])
def test_a_target_that_cannot_take_it_gets_no_share_of_the_deadline(
    chain: tuple[Target, Target], clock: FakeClock
) -> None:
    """The only one that can has all of it, first or second in the chain."""

    @failover(chain, needs="tools", timeout=8.0)
    def ask(target: Target, *, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 8.0 == ask()  # type: ignore[call-arg]  # filled in


def test_a_target_that_can_take_it_gets_its_share(clock: FakeClock) -> None:
    """The one after the next is live, and the next one lacks a word."""

    @failover([TOOLS, TEXT_ONLY, UNKNOWN], needs="tools", timeout=8.0)
    def ask(target: Target, *, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 6.0 == ask()  # type: ignore[call-arg]  # filled in


def test_a_benched_target_that_can_take_it_gets_none(clock: FakeClock) -> None:
    """The next one that can take it is benched, so the first has all the time."""
    bench(MISTRAL)

    @failover([TOOLS, TEXT_ONLY, UNKNOWN], needs="tools", timeout=8.0)
    def ask(target: Target, *, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 8.0 == ask()  # type: ignore[call-arg]  # filled in


@over(SYNC_DRIVERS)
def test_a_rate_limit_is_waited_for_if_nobody_else_can_take_it(
    driver: Driver, clock: FakeClock
) -> None:
    """A live target that lacks a word is no reason to move on."""
    limits = [lambda: rate_limited(3), "right"]
    script = Script({OPENAI: limits, GROQ: ["wrong"]})

    assert "right" == driver.run(failover([TOOLS, TEXT_ONLY], needs="tools"), script)
    assert [OPENAI, OPENAI] == script.calls
    assert [3.0] == clock.sleeps


# --- what is kept ---------------------------------------------------------------------------------


class Prompt(str):
    """A text that can be referred to weakly."""


@pytest.mark.parametrize("needs", ["tools", "vision"])
def test_no_argument_is_kept(needs: str) -> None:
    """Neither an answered call nor one that nobody could take keeps its prompt."""
    ask = ask_with(
        TEXT_ONLY, TOOLS, needs=lambda prompt: needs, tokens=lambda prompt: len(prompt) // 0
    )
    prompt = Prompt("Hi")
    known = weakref.ref(prompt)

    with suppress(NoCapableTargetError):
        ask(prompt)
    del prompt
    gc.collect()

    assert known() is None


def test_who_begins_to_observe_is_told_of_the_next_skip() -> None:
    """The healthy path tells of skips as soon as somebody listens."""
    ask = ask_with(TEXT_ONLY, TOOLS, needs="tools")
    ask()
    seen: list[Any] = []
    observe(seen.append, TargetSkipped)

    ask()

    assert [GROQ] == [each.target for each in seen]
