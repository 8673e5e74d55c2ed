"""How a function is given its target, and how one is shown to write it that asks for none."""

import asyncio
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    Target,
    bench_model,
    failover,
    health,
    testing,
)
from tests.support.ways import GROQ, OPENAI, ProviderError, on_both_loops, run_async

NESTED = "openrouter/meta-llama/llama-3-70b"


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names in a function's visible signature."""
    return list(inspect.signature(function).parameters)


def module_of(source: str) -> types.ModuleType:
    """Return a new module with this source, as if it had been imported."""
    module = types.ModuleType("written_by_a_user")
    sys.modules[module.__name__] = module
    exec(source, vars(module))  # noqa: S102 - what stands in a module of its own is what is asked
    return module


# --- first positional parameter ---------------------------------------------------------------


def test_a_first_parameter_annotated_target_is_filled_in() -> None:
    """The target that is called arrives in the first parameter, before the caller's own arguments."""

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target, prompt: str, *, loud: bool = False) -> object:
        return (target.spec, prompt, loud)

    assert (GROQ, "why", True) == ask("why", loud=True)
    assert (GROQ, "why", False) == ask(prompt="why")


@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": 5.0}, {"strategy": "random"}, {"strategy": lambda targets, call: targets}],
    ids=["inlined", "timeout", "drawn", "passed"],
)
def test_a_filled_parameter_cannot_be_passed_by_name(options: dict[str, Any]) -> None:
    """Where `**kwargs` would take it, the caller is told how calls are pinned; nothing is called."""
    called: list[str] = []

    @failover(chain=[GROQ, OPENAI], **options)
    def ask(where: Target, prompt: str, **more: Any) -> object:
        called.append(prompt)
        return more

    @failover(chain=[GROQ, OPENAI], **options)
    async def ask_async(where: Target, prompt: str, **more: Any) -> object:
        called.append(prompt)
        return more

    def plain(where: Target, prompt: str, **more: Any) -> None:
        called.append(prompt)

    for _ in range(2):  # the first call binds
        assert {"target": "x"} == ask("Hi", target="x") == run_async(_late(ask_async, target="x"))
    called.clear()
    for call in (
        lambda: ask("Hi", where=OPENAI),
        lambda: run_async(_late(ask_async, where=OPENAI)),
        lambda: failover(chain=[GROQ], **options).call(plain, "Hi", where=OPENAI),
    ):
        with pytest.raises(TypeError, match=r"'where', which its chain fills in: to pin .*target="):
            call()
    assert [] == called


def _late(ask: Callable[..., Any], **more: Any) -> Callable[[], Any]:
    """Return a function that makes the call in its loop."""

    async def main() -> Any:
        return await ask("Hi", **more)

    return main


def test_a_positional_only_target_leaves_its_name_to_the_keywords() -> None:
    """Python tells the two apart, and so is it here."""

    @failover(chain=[GROQ])
    def ask(target: Target, /, **more: Any) -> object:
        return target.spec, more

    assert (GROQ, {"target": "x"}) == ask(target="x")


def test_the_filled_parameter_leaves_the_signature() -> None:
    """What the caller does not pass is not in the signature he sees."""

    @failover(chain=[GROQ])
    def ask(target: Target, prompt: str, *, loud: bool = False) -> str:
        return prompt

    signature = inspect.signature(ask)

    assert ["prompt", "loud"] == list(signature.parameters)
    assert str is signature.return_annotation
    assert str is signature.parameters["prompt"].annotation
    assert False is signature.parameters["loud"].default


@pytest.mark.parametrize("name", ["target", "model", "t", "_fn", "where", "provider"])
def test_the_first_parameter_may_have_any_name(name: str) -> None:
    """It is the annotation that asks for the target, whatever the parameter is called."""
    module = module_of(
        f"from resilient_llm import Target\ndef ask({name}: Target, prompt): return ({name}.spec, prompt)"
    )

    ask = failover(chain=[GROQ])(module.ask)

    assert (GROQ, "why") == ask("why")
    assert ["prompt"] == parameters(ask)


def test_a_positional_only_target_is_filled_in() -> None:
    """A target before the slash is filled in like any other."""

    @failover(chain=[GROQ])
    def ask(target: Target, prompt: str, /) -> object:
        return (target.spec, prompt)

    assert (GROQ, "why") == ask("why")
    assert ["prompt"] == parameters(ask)


def test_the_target_comes_after_self() -> None:
    """In a method the target is the first parameter after ``self``."""

    class Client:
        name = "mine"

        @failover(chain=[GROQ])
        def ask(self, target: Target, prompt: str) -> object:
            return (self.name, target.spec, prompt)

    assert ("mine", GROQ, "why") == Client().ask("why")
    assert ("mine", GROQ, "why") == Client.ask(Client(), "why")
    assert ["prompt"] == parameters(Client().ask)


def test_the_target_comes_after_cls() -> None:
    """In a class method the target is the first parameter after ``cls``."""

    class Client:
        @classmethod
        @failover(chain=[GROQ])
        def ask(cls, target: Target, prompt: str) -> object:
            return (cls.__name__, target.spec, prompt)

    assert ("Client", GROQ, "why") == Client.ask("why")


def test_a_caller_who_passes_one_argument_too_many_gets_the_error_of_any_function() -> None:
    """A wrong call is a TypeError that reaches the caller, and no target is blamed for it."""

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target, prompt: str) -> str:
        return prompt

    with pytest.raises(TypeError):
        ask("why", "how")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ask()  # type: ignore[call-arg]
    assert [] == [key for key, found in health().items() if found.errors]


def test_each_attempt_is_given_its_own_target() -> None:
    """A call that moves on passes the next target to the function."""
    seen: list[str] = []

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        seen.append(target.spec)
        if target.spec == GROQ:
            raise ProviderError(503)
        return prompt

    assert "why" == ask("why")
    assert [GROQ, OPENAI] == seen


# --- keyword-only parameters ------------------------------------------------------------------


def test_keyword_only_target_model_and_provider_are_filled_in() -> None:
    """Each of the three names is filled with what it says."""

    @failover(chain=[NESTED])
    def ask(
        prompt: str, *, target: Target | None = None, model: str = "", provider: str = ""
    ) -> object:
        assert target is not None
        return (prompt, target.spec, model, provider)

    assert ("why", NESTED, "meta-llama/llama-3-70b", "openrouter") == ask("why")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("target", Target(GROQ)), ("model", "llama"), ("provider", "groq")],
)
def test_one_keyword_only_parameter_is_enough(name: str, expected: object) -> None:
    """Any one of the three names is a way to be given the target."""
    module = module_of(f"def ask(prompt, *, {name}=None): return {name}")

    ask = failover(chain=[GROQ])(module.ask)

    assert expected == ask("why")


@pytest.mark.parametrize("name", ["target", "model", "provider"])
def test_a_keyword_only_parameter_needs_no_default(name: str) -> None:
    """A default is best, but a parameter without one is filled in too."""
    module = module_of(f"def ask(prompt, *, {name}): return {name}")

    ask = failover(chain=[GROQ])(module.ask)

    assert None is not ask("why")


def test_keyword_only_parameters_follow_the_call_from_target_to_target() -> None:
    """After a failure the names say where the next attempt goes."""
    seen: list[tuple[str, str]] = []

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(*, model: str = "", provider: str = "") -> str:
        seen.append((provider, model))
        if provider == "groq":
            raise ProviderError(503)
        return model

    assert "gpt" == ask()
    assert [("groq", "llama"), ("openai", "gpt")] == seen


def test_keyword_only_parameters_are_filled_in_in_a_method() -> None:
    """A method may ask by name as well."""

    class Client:
        @failover(chain=[GROQ])
        def ask(self, prompt: str, *, model: str = "") -> object:
            return (prompt, model)

    assert ("why", "llama") == Client().ask("why")


def test_what_the_caller_passes_is_not_overwritten() -> None:
    """A provider passed by the caller arrives as it is."""

    @failover(chain=[GROQ])
    def ask(*, target: Target | None = None, provider: str = "") -> str:
        return provider

    assert "mine" == ask(provider="mine")


# --- pinning ----------------------------------------------------------------------------------


@failover(chain=[GROQ, OPENAI, NESTED], attempts=1)
def where(prompt: str, *, target: Target | None = None, model: str = "") -> str:
    """Say where a call went."""
    assert target is not None
    return target.spec


@pytest.mark.parametrize(
    "pin", [OPENAI, Target(OPENAI), " OpenAI/gpt "], ids=["spec", "target", "untidy"]
)
def test_passing_target_pins_the_call(pin: object) -> None:
    """A Target or a spec as ``target=`` sends the call there, and the function is given a Target."""
    given: list[Target] = []

    @failover(chain=[GROQ, OPENAI])
    def ask(*, target: Target | None = None) -> None:
        assert target is not None
        given.append(target)

    ask(target=pin)  # type: ignore[arg-type]

    assert [Target(OPENAI).key] == [target.key for target in given]


@pytest.mark.parametrize("pin", ["gpt", OPENAI], ids=["bare", "spec"])
def test_passing_model_pins_the_call(pin: str) -> None:
    """A bare name or a spec as ``model=`` sends the call to that target."""
    seen: list[tuple[str, str]] = []

    @failover(chain=[GROQ, OPENAI])
    def ask(*, model: str = "", provider: str = "") -> None:
        seen.append((provider, model))

    ask(model=pin)

    assert [("openai", "gpt")] == [(provider, model.rpartition("/")[2]) for provider, model in seen]


def test_a_bare_name_with_a_slash_is_looked_for_before_a_spec() -> None:
    """``model="meta-llama/llama-3-70b"`` is OpenRouter's model, not one of a provider meta-llama."""

    @failover(chain=[GROQ, NESTED])
    def ask(*, model: str = "", provider: str = "") -> str:
        return provider

    assert "openrouter" == ask(model="meta-llama/llama-3-70b")


@pytest.mark.parametrize("pin", ["no-such-model", " ", "llama"])
def test_a_model_that_is_no_target_is_a_value_error_that_lists_them(pin: str) -> None:
    """A name that matches nothing is refused, with the names there are."""

    @failover(chain=["groq/big", "openai/small"])
    def ask(*, model: str = "") -> str:
        return model

    with pytest.raises(ValueError) as caught:
        ask(model=pin)

    assert "groq/big" in str(caught.value)
    assert "openai/small" in str(caught.value)


def test_a_bare_name_of_two_targets_is_not_guessed() -> None:
    """A bare name that two targets share is refused, and each can be named by its spec."""

    @failover(chain=["groq/llama", "together/llama"])
    def ask(*, model: str = "", provider: str = "") -> str:
        return provider

    with pytest.raises(ValueError) as caught:
        ask(model="llama")

    assert "groq/llama" in str(caught.value)
    assert "together/llama" in str(caught.value)
    assert "together" == ask(model="together/llama")


def test_a_pinned_call_is_sent_nowhere_else() -> None:
    """The error of a pinned target is not covered by another one."""
    seen: list[str] = []

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(*, target: Target | None = None) -> None:
        assert target is not None
        seen.append(target.spec)
        raise ProviderError(401)

    with pytest.raises(ChainExhaustedError) as caught:
        ask(target=Target(OPENAI))

    assert [OPENAI] == seen
    assert [401] == [member.status_code for member in caught.value.exceptions]  # type: ignore[attr-defined]


def test_a_pinned_call_is_retried_and_counted(clock: Any) -> None:
    """A pinned call has its attempts, its waits and its place in the numbers."""
    provider = testing.scripted(ProviderError(503), ProviderError(503), "answer")

    @failover(chain=[GROQ, OPENAI])
    def ask(*, target: Target | None = None) -> Any:
        return provider()

    with testing.capture_events(AttemptFailed) as failures:
        answer = ask(target=Target(OPENAI))

    assert "answer" == answer
    assert 2 == len(clock.sleeps)
    assert [(OPENAI, 1, "transient"), (OPENAI, 2, "transient")] == [
        (e.target, e.number, e.kind) for e in failures
    ]
    assert (3, 2) == (health()[OPENAI].total, health()[OPENAI].errors)


def test_a_pinned_call_is_guarded() -> None:
    """A pinned target that an operator benched is not called, though another is live."""
    bench_model(OPENAI)

    with pytest.raises(ChainExhaustedError) as caught:
        where("why", target=Target(OPENAI))

    assert [BreakerOpenError] == [type(member) for member in caught.value.exceptions]
    assert GROQ == where("why")


@on_both_loops
def test_pinning_in_async_code(backend: str) -> None:
    """A coroutine function is pinned in the same way."""

    @failover(chain=[GROQ, OPENAI])
    async def ask(prompt: str, *, target: Target | None = None, model: str = "") -> str:
        assert target is not None
        return target.spec

    async def main() -> list[str]:
        return [
            await ask("why"),
            await ask("why", target=Target(OPENAI)),
            await ask("why", model="gpt"),
        ]

    assert [GROQ, OPENAI, OPENAI] == run_async(main, backend=backend)


# --- a `call=` of every entry -----------------------------------------------------------------


def test_every_entry_with_a_call_of_its_own_needs_no_injection() -> None:
    """With ``call=`` on every entry the decorated function asks for nothing, and is not called."""
    groq, openai = testing.scripted(ProviderError(401)), testing.scripted("answer")

    @failover(chain=[Target(GROQ, call=groq), Target(OPENAI, call=openai)])
    def ask(prompt: str, *, loud: bool = False) -> str:
        raise AssertionError("the entries' own callables are called instead")

    assert "answer" == ask("why", loud=True)
    assert [(("why",), {"loud": True})] == groq.calls
    assert [(("why",), {"loud": True})] == openai.calls


def test_a_call_is_given_its_target_by_the_same_rules() -> None:
    """Each callable is filled by its own signature: first parameter, by name, or not at all."""

    def first(target: Target, prompt: str) -> object:
        raise ProviderError(401)

    def named(prompt: str, *, model: str = "", attempt: Attempt) -> object:
        return (prompt, model, attempt.target.spec)

    @failover(chain=[Target(GROQ, call=first), Target(OPENAI, call=named)])
    def ask(prompt: str) -> object:
        raise AssertionError("the entries' own callables are called instead")

    assert ("why", "gpt", OPENAI) == ask("why")


def test_a_call_replaces_the_decorated_function_for_its_target_alone() -> None:
    """An entry without ``call=`` is served by the decorated function."""

    @failover(chain=[Target(GROQ, call=testing.scripted(ProviderError(401))), OPENAI])
    def ask(target: Target, prompt: str) -> object:
        return (target.spec, prompt)

    assert (OPENAI, "why") == ask("why")


def test_one_entry_without_a_call_is_not_enough() -> None:
    """As long as one entry has no ``call=`` the function must ask for its target."""
    with pytest.raises(ConfigurationError) as caught:

        @failover(chain=[Target(GROQ, call=testing.scripted("answer")), OPENAI])
        def ask(prompt: str) -> str:
            return prompt

    assert "Target" in str(caught.value)


def test_params_are_merged_over_the_calls_keywords() -> None:
    """A target's params win over what the caller passed, and UNSET takes an argument away."""
    provider = testing.scripted("answer")
    params = {"temperature": 0.0, "seed": Target.UNSET, "extra": "x"}

    @failover(chain=[Target(GROQ, call=provider, params=params)])
    def ask(**kwargs: Any) -> Any:
        raise AssertionError("the entry's own callable is called instead")

    assert "answer" == ask(temperature=1.0, seed=3, top_p=0.5)
    assert [((), {"temperature": 0.0, "extra": "x", "top_p": 0.5})] == provider.calls


def test_params_reach_the_decorated_function() -> None:
    """Params of a target without ``call=`` are arguments of the decorated function."""

    @failover(chain=[Target(GROQ, params={"temperature": 0.0})])
    def ask(target: Target, prompt: str, *, temperature: float = 1.0) -> float:
        return temperature

    assert 0.0 == ask("why")
    assert 0.0 == ask("why", temperature=0.7)


# --- the Attempt ------------------------------------------------------------------------------


def test_an_attempt_parameter_is_filled_in(clock: Any) -> None:
    """The function is told its target, the attempt's number within it, the time left and the call's name."""
    seen: list[Attempt] = []

    @failover(chain=[GROQ, OPENAI], attempts=2)
    def ask(target: Target, prompt: str, *, attempt: Attempt) -> str:
        seen.append(attempt)
        if len(seen) < 4:
            raise ProviderError(503)
        return prompt

    assert "why" == ask("why")
    assert [(GROQ, 1), (GROQ, 2), (OPENAI, 1), (OPENAI, 2)] == [
        (a.target.spec, a.number) for a in seen
    ]
    assert [None] * 4 == [attempt.remaining for attempt in seen]
    assert 1 == len({attempt.call_id for attempt in seen})
    assert "" != seen[0].call_id


def test_two_calls_have_names_of_their_own() -> None:
    """No two calls share a call_id."""

    @failover(chain=[GROQ])
    def ask(target: Target, *, attempt: Attempt) -> str:
        return attempt.call_id

    assert 3 == len({ask(), ask(), ask()})


def test_the_attempt_leaves_the_signature() -> None:
    """The caller does not see what he does not pass."""

    @failover(chain=[GROQ])
    def ask(target: Target, attempt: Attempt, prompt: str) -> object:
        return (prompt, attempt.number)

    assert ("why", 1) == ask("why")
    assert ["prompt"] == parameters(ask)


@pytest.mark.parametrize(
    "source",
    [
        "def ask(target: Target, prompt, *, attempt: Attempt): return attempt.number",
        "def ask(target: Target, prompt, attempt: Attempt): return attempt.number",
        "def ask(target: Target, attempt: Attempt, prompt): return attempt.number",
        "def ask(prompt, *, attempt: Attempt, model=''): return attempt.number",
        "def ask(prompt, *, model='', whatever: Attempt): return whatever.number",
        "async def ask(target: Target, prompt, *, attempt: Attempt): return attempt.number",
    ],
)
def test_an_attempt_parameter_may_stand_anywhere(source: str) -> None:
    """The annotation asks for the Attempt, whatever the parameter's name and place."""
    module = module_of("from resilient_llm import Attempt, Target\n" + source)

    ask = failover(chain=[GROQ])(module.ask)

    answer = ask("why")
    assert 1 == (asyncio.run(answer) if inspect.isawaitable(answer) else answer)


def test_the_attempts_call_id_is_the_events() -> None:
    """The name a function is told is the one its events carry."""

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target, *, attempt: Attempt) -> str:
        if target.spec == GROQ:
            raise ProviderError(503)
        return attempt.call_id

    with testing.capture_events() as events:
        call_id = ask()

    assert {call_id} == {
        event.call_id for event in events if type(event).__name__.startswith("Attempt")
    }


# --- annotations as strings -------------------------------------------------------------------

FUTURE = "from __future__ import annotations\n"
ONLY_CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from resilient_llm import Attempt, Target\n"


@pytest.mark.parametrize(
    "head",
    [
        FUTURE + "from resilient_llm import Attempt, Target\n",
        FUTURE + ONLY_CHECKED,
        FUTURE + "import resilient_llm\nTarget = Attempt = None\ndel Target, Attempt\n",
        ONLY_CHECKED,
    ],
    ids=["future", "only-checked-future", "unknown", "only-checked"],
)
@pytest.mark.parametrize(
    "source",
    [
        "def ask(target: 'Target', prompt: 'str', *, attempt: 'Attempt') -> 'str': return (target.spec, attempt.number)",
        "def ask(prompt: 'Undefined', *, target: 'Target | None' = None, attempt: 'Attempt'):\n"
        "    return (target.spec, attempt.number)",
        "class Client:\n"
        "    def ask(self, where: 'Target', prompt, attempt: 'Attempt'): return (where.spec, attempt.number)\n"
        "ask = Client().ask",
    ],
    ids=["first", "named", "method"],
)
def test_annotations_as_strings_are_resolved_or_matched_by_name(head: str, source: str) -> None:
    """A string annotation asks for the same as the class, also when its name exists for type checkers alone."""
    module = module_of(head + source)

    ask = failover(chain=[GROQ])(module.ask)

    assert (GROQ, 1) == ask("why")


@pytest.mark.parametrize("annotation", ["resilient_llm.Target", "rl.Target", "Alias"])
def test_qualified_and_renamed_annotations_are_understood(annotation: str) -> None:
    """A qualified name or an alias that can be resolved is the class it stands for."""
    module = module_of(
        FUTURE
        + "import resilient_llm\nimport resilient_llm as rl\nfrom resilient_llm import Target as Alias\n"
        + f"def ask(place: {annotation}, prompt): return place.spec"
    )

    assert GROQ == failover(chain=[GROQ])(module.ask)("why")


@pytest.mark.parametrize("annotation", ["resilient_llm.Target", "rl.Target"])
def test_a_qualified_name_under_type_checking_is_matched_by_its_last_part(annotation: str) -> None:
    """A qualified name that exists for type checkers alone is matched by name."""
    module = module_of(
        FUTURE
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import resilient_llm\n    import resilient_llm as rl\n"
        + f"def ask(place: {annotation}, prompt): return place.spec"
    )

    assert GROQ == failover(chain=[GROQ])(module.ask)("why")


# --- refused where it is written --------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "def ask(prompt): return prompt",
        "def ask(): return 1",
        "def ask(prompt: str, other: int): return prompt",
        "def ask(target, prompt): return prompt",
        "def ask(*args, **kwargs): return 1",
        "def ask(prompt: str, target: Target): return prompt",
        "def ask(prompt, model=''): return prompt",
        "async def ask(prompt): return prompt",
        "def ask(attempt: Attempt): return 1",
        "class Client:\n    def ask(self, prompt): return 1\nask = Client().ask",
        "class Client:\n    def ask(self, target, prompt): return 1\nask = Client.ask",
        "class Client:\n    def __call__(self, prompt): return 1\nask = Client()",
    ],
)
def test_a_function_that_asks_for_no_target_is_refused_with_an_example(source: str) -> None:
    """Whoever forgets the target is shown at decoration how to write it."""
    module = module_of("from resilient_llm import Attempt, Target\n" + source)

    with pytest.raises(ConfigurationError) as caught:
        failover(chain=[GROQ])(module.ask)

    assert isinstance(caught.value, ValueError)
    assert "target: Target" in str(caught.value)


def test_a_refused_function_is_named() -> None:
    """The message says which function is meant."""

    def summarise_the_report(prompt: str) -> str:
        return prompt

    with pytest.raises(ConfigurationError, match="summarise_the_report"):
        failover(chain=[GROQ])(summarise_the_report)


@pytest.mark.parametrize(
    "source",
    [
        "def ask(prompt): return prompt",
        "def ask(target, prompt): return prompt",
        "async def ask(prompt): return prompt",
    ],
)
def test_policy_call_refuses_what_the_decorator_refuses(source: str) -> None:
    """``policy.call`` gives a function its target by the same rules."""
    module = module_of(source)

    with pytest.raises(ConfigurationError, match="target: Target"):
        failover(chain=[GROQ]).call(module.ask, "why")


# --- defaults that frameworks pass on ---------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "passed"),
    [
        ("model: str = '', provider: str = ''", {"model": "", "provider": ""}),
        ("model: str = '', provider: str = ''", {"provider": ""}),
        ("model: str = 'any', provider='any'", {"model": "any"}),
        ("target=NOWHERE, model=None, provider=None", {"target": Target("no/where")}),
        ("target=UNSET, model=None, provider=None", {"target": "UNSET", "provider": None}),
    ],
)
def test_a_default_that_is_handed_on_counts_as_not_passed(
    parameters: str, passed: dict[str, Any]
) -> None:
    """Frameworks that call by the signature pass what their caller left out."""
    module = module_of(
        "from resilient_llm import Target\nUNSET, NOWHERE = object(), Target('no/where')\n"
        f"def ask(prompt, *, {parameters}, **rest): return (model, provider)"
    )
    given = {name: module.UNSET if each == "UNSET" else each for name, each in passed.items()}

    ask = failover(chain=[GROQ, OPENAI])(module.ask)

    assert ("llama", "groq") == (ask("why", **given)[0].partition("-")[0], ask("why", **given)[1])


def test_what_is_not_the_default_still_pins() -> None:
    """A model that is named is the one that is called."""

    @failover(chain=[GROQ, OPENAI])
    def ask(prompt: str, *, target: Target | None = None, model: str = "") -> str:
        assert target is not None
        return target.spec

    assert OPENAI == ask("why", model=Target(OPENAI).model)
    with pytest.raises(ValueError, match="names no target"):
        ask("why", model=" ")


def test_a_default_handed_on_does_not_shadow_the_target_of_an_awaitable_call() -> None:
    """The same for coroutine functions and generators, whose calls begin elsewhere."""

    @failover(chain=[GROQ])
    async def ask(prompt: str, *, provider: str = "") -> str:
        return provider

    @failover(chain=[GROQ])
    def words(prompt: str, *, provider: str = "") -> Any:
        yield provider

    assert "groq" == asyncio.run(ask("why", provider=""))
    assert ["groq"] == list(words("why", provider=""))
