"""What a public class says of itself: its module, its annotations, its source, its pickles."""

from __future__ import annotations

import base64
import copy
import inspect
import json
import pickle
import sys
import types
import typing
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydantic
import pytest

import resilient_llm.answers
import resilient_llm.testing
from resilient_llm import (
    AttemptFailed,
    AttemptRecord,
    BenchedModel,
    BreakerOpenError,
    ChainExhaustedError,
    ErrorKind,
    Failover,
    StreamPolicy,
    Target,
    Trace,
    Verdict,
    classify,
    failover,
    health,
)

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
CLASSES = {
    name: value
    for name in resilient_llm.__all__
    if isinstance(value := getattr(resilient_llm, name), type)
}
DATACLASSES = {name: each for name, each in CLASSES.items() if is_dataclass(each)}
OLD_PICKLES = {
    (file.stem, name): base64.b64decode(text)
    for file in sorted((Path(__file__).parent / "pickles").glob("*.json"))
    for name, text in json.loads(file.read_text(encoding="utf-8")).items()
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_belongs_to_the_package(name: str) -> None:
    """Its module is the one that users import it from, and gives it back."""
    assert ("resilient_llm", name) == (CLASSES[name].__module__, CLASSES[name].__qualname__)


@pytest.mark.parametrize("name", CLASSES)
def test_the_annotations_of_a_class_resolve(name: str) -> None:
    """`typing.get_type_hints` finds every name in them."""
    hints = typing.get_type_hints(CLASSES[name])

    assert not any(isinstance(hint, (str, typing.ForwardRef)) for hint in hints.values())


@pytest.mark.parametrize("name", DATACLASSES)
def test_the_annotations_of_a_dataclass_s_methods_resolve(name: str) -> None:
    """Those of what a dataclass does, too."""
    methods = [each for each in vars(DATACLASSES[name]).values() if inspect.isfunction(each)]

    assert all(isinstance(typing.get_type_hints(method), dict) for method in methods)


FUNCTIONS: dict[str, Any] = {
    f"{module.__name__}.{name}": value
    for module in (resilient_llm, resilient_llm.testing, resilient_llm.answers)
    for name in module.__all__
    if inspect.isroutine(value := getattr(module, name))
}
METHODS: dict[str, Any] = {
    f"{name}.{method}": value.fget if isinstance(value, property) else value
    for name, cls in CLASSES.items()
    for method, value in vars(cls).items()
    if isinstance(value, (types.FunctionType, property))
    if not method.startswith("_") or method in ("__call__", "__init__")
}
METHODS |= {f"classify.{name}": getattr(classify, name) for name in ("rule", "explain", "__call__")}


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_the_annotations_of_a_function_resolve(name: str) -> None:
    """Frameworks that build a form, a tool or a command from a function find every name."""
    hints = typing.get_type_hints({**FUNCTIONS, **METHODS}[name], include_extras=True)

    assert not any(isinstance(hint, (str, typing.ForwardRef)) for hint in hints.values())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a class whose module is set has no source")
@pytest.mark.parametrize("name", CLASSES)
def test_the_source_of_a_class_is_found(name: str) -> None:
    """`inspect.getsource` gives the code of the class, wherever it stands."""
    source = inspect.getsource(CLASSES[name])

    assert f"class {name}" in source.partition(":")[0]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_gives_no_other_source_for_its_own(name: str) -> None:
    """Where the source cannot be had that is an error, and not the source of something else."""
    try:
        source = inspect.getsource(CLASSES[name])
    except OSError:
        assert sys.version_info >= (3, 13)
    else:
        assert f"class {name}" in source.partition(":")[0]


def test_instances_and_subclasses_wrap_nothing() -> None:
    """What leads to the source is of the class alone; nothing else passes for a wrapper."""

    class Mine(Trace):
        """One of the caller's own."""

    assert not hasattr(Mine, "__wrapped__")
    assert not hasattr(Trace(), "__wrapped__")
    assert not hasattr(failover("groq/a"), "__wrapped__")


def test_signatures_are_those_of_the_constructors() -> None:
    """`inspect.signature` shows what a class is built from."""
    assert ["spec", "call", "account"] == list(inspect.signature(Target).parameters)[:3]
    assert ["kind", "reason", "retry_after"] == list(inspect.signature(Verdict).parameters)[:3]
    assert ["target", "reason", "retry_after"] == list(
        inspect.signature(BreakerOpenError).parameters
    )


@pytest.mark.parametrize("name", [*DATACLASSES, "AttemptRecord", "StreamPolicy", "ErrorKind"])
def test_pydantic_takes_it_as_a_field(name: str) -> None:
    """A public value may be a field of somebody's model."""
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(CLASSES[name])

    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python(object())


@pytest.mark.parametrize(
    "value",
    [
        Target("groq/llama", account="a", params={"top_p": Target.UNSET}),
        StreamPolicy(idle_timeout=3),
        Verdict(ErrorKind.RATE_LIMITED, "rate_limit", 3.0),
        AttemptRecord("groq/llama", 1),
        BenchedModel("groq", AT, 1.0, AT - timedelta(1), 0, True, "", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_takes_an_instance_as_it_is(value: Any) -> None:
    """Validation hands on the value that was given."""
    assert value == pydantic.TypeAdapter(type(value)).validate_python(value)


@pytest.mark.parametrize("key", OLD_PICKLES, ids="-".join)
def test_a_pickle_of_an_earlier_release_loads(key: tuple[str, str]) -> None:
    """What was pickled before the code moved is the same value, and pickles anew."""
    value = pickle.loads(OLD_PICKLES[key])

    again = pickle.loads(pickle.dumps(value))
    assert type(value) is type(again)
    assert repr(value) == repr(again)


def test_an_old_pickle_of_a_target_without_words_fits_every_call() -> None:
    """In earlier releases no words meant that nothing is known; now they mean that it is nothing."""
    rebuild, old = Target.__reduce__(Target("groq/llama", supports=()))[:2]

    assert rebuild(*old[:2]).supports is None
    assert frozenset() == rebuild(*old).supports


def test_the_old_pickles_are_values_of_today() -> None:
    """They are equal to what is built from the same arguments."""
    old = {name: pickle.loads(data) for (_, name), data in OLD_PICKLES.items()}

    assert Verdict(ErrorKind.RATE_LIMITED, "rate_limit", 3.0, 429) == old["Verdict"]
    assert ErrorKind.RATE_LIMITED is old["ErrorKind"]
    assert Target.UNSET is old["UNSET"]
    assert "groq@t/llama" == old["Target"].key
    assert (
        StreamPolicy(on_interrupt="restart", idle_timeout=30, keep_text=100)
        == (old["StreamPolicy"])
    )
    assert ["groq/llama", "openai/gpt"] == [each.key for each in old["Failover"].chain]
    assert {"groq/llama"} == {each.target for each in old["ChainExhaustedError"].attempts}
    assert ("groq/llama", 30.0) == (
        old["BreakerOpenError"].target,
        old["BreakerOpenError"].retry_after,
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_names_no_private_module(protocol: int) -> None:
    """What is pickled today loads wherever the code moves."""
    values = [
        Target("groq/llama", stream=StreamPolicy(idle_timeout=3)),
        Verdict(ErrorKind.TRANSIENT),
        AttemptRecord("groq/llama", 1, ErrorKind.TRANSIENT),
        Target("groq/llama", params={"top_p": Target.UNSET}),
        failover("groq/llama"),
        health(["groq/llama"])["groq/llama"],
        BreakerOpenError("groq/llama", "timeout", 3.0),
        classify.explain(TimeoutError()),
        ChainExhaustedError("no target answered", [ConnectionError()]),
        AttemptFailed(
            at=AT,
            call_id="",
            target="groq/llama",
            number=1,
            seconds=1.0,
            kind=ErrorKind.TRANSIENT,
            reason="timeout",
            status=None,
        ),
    ]

    data = pickle.dumps(values, protocol)

    assert b"resilient_llm._" not in data
    assert [type(value) for value in values] == [type(value) for value in pickle.loads(data)]


def test_a_policy_is_pickled_by_what_it_was_given() -> None:
    """The copy has the same chain and options."""
    policy = failover("groq/a, openai/b", attempts=2, timeout=3.0)

    copy: Failover = pickle.loads(pickle.dumps(policy))

    assert policy.chain == copy.chain
    assert (2, 3.0) == (copy._policy.options.attempts, copy._policy.options.timeout)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_deep_copy_shares_nothing_that_can_change(how: Any) -> None:
    """What is changed in the copy of a target or policy is not changed in the original."""
    target = Target("groq/llama", params={"extra": {"k": [1]}})
    streams = StreamPolicy(on_interrupt="restart", restart_marker={"k": [1]})

    how(target).params["extra"]["k"].append(2)
    how(streams).restart_marker["k"].append(2)
    how(failover([target])).chain[0].params["extra"]["k"].append(2)

    assert {"extra": {"k": [1]}} == dict(target.params)
    assert {"k": [1]} == streams.restart_marker


def test_old_names_of_functions_are_functions() -> None:
    """A reference by name that an earlier release made gives the function, not its module."""
    from resilient_llm._failover import failover as old

    assert failover is old


def test_a_model_with_a_target_goes_to_json_and_back_by_its_key() -> None:
    """The parameters of a target, which may hold a key, are not written."""
    adapter: pydantic.TypeAdapter[Target] = pydantic.TypeAdapter(Target)
    target = Target("groq/llama", account="eu", params={"api_key": "sk-secret"})

    text = adapter.dump_json(target)

    assert b'"groq@eu/llama"' == text
    assert Target("groq@eu/llama") == adapter.validate_json(text)
    assert "groq@eu/llama" == adapter.dump_python(target)
    assert {"string", "object"} == {form["type"] for form in adapter.json_schema()["anyOf"]}


def test_a_target_goes_to_json_and_back_with_its_options() -> None:
    """All that are plain values; not its function, and not its parameters."""
    adapter: pydantic.TypeAdapter[Target] = pydantic.TypeAdapter(Target)
    options: dict[str, Any] = {
        "account": "eu",
        "attempt_timeout": 3.5,
        "stream": StreamPolicy(idle_timeout=4.0),
        "priority": 2,
        "weight": 0.5,
        "price": (0.1, 0.2),
        "context_window": 8_000,
        "max_output": 1_000,
        "supports": {"tools"},
        "tags": {"b", "a"},
    }

    text = adapter.dump_json(Target("groq/llama", call=print, params={"k": "sk"}, **options))

    assert b"sk" not in text
    assert b"print" not in text
    assert Target("groq/llama", **options) == adapter.validate_json(text)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"spec": "groq/a", "prioriti": 2}, "did you mean priority"),
        ({"priority": 2}, "without spec"),
        ({"spec": "groq/a", "priority": "high"}, "priority"),
        ({"spec": "groq/a", "call": "os.system"}, "no option 'call'"),
        ({"spec": "groq/a", "stream": {"idle": 2}}, "no option 'idle'"),
    ],
)
def test_a_wrong_option_of_a_target_in_json_is_a_validation_error(
    plain: dict[str, Any], message: str
) -> None:
    """It says which option it is."""
    with pytest.raises(pydantic.ValidationError, match=message):
        pydantic.TypeAdapter(Target).validate_python(plain)


def test_a_stream_policy_goes_to_json_and_back_by_its_options() -> None:
    """Its JSON form is the options that were named."""
    adapter: pydantic.TypeAdapter[StreamPolicy] = pydantic.TypeAdapter(StreamPolicy)
    policy = StreamPolicy(idle_timeout=3, on_empty="accept")

    assert policy == adapter.validate_json(adapter.dump_json(policy))
    assert "object" == adapter.json_schema()["type"]
    with pytest.raises(pydantic.ValidationError, match="no option 'idle'"):
        adapter.validate_json('{"idle": 3}')
