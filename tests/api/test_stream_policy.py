"""`StreamPolicy`: checked when built, immutable, a target's over the chain's, and silent about the caller's marker."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm import ConfigurationError, StreamPolicy, Target, failover
from tests.support.ways import GROQ, OPENAI


async def _async_function(item: Any) -> bool:
    return True


def _go_on(interruption: Any) -> dict[str, Any]:
    return {}


SECONDS = [0, 0.0, -1, -0.5, math.inf, -math.inf, math.nan, True, "10", None, [1]]
OPTIONAL_SECONDS = [value for value in SECONDS if value is not None]
WRONG = [
    *(("first_item_timeout", value) for value in OPTIONAL_SECONDS),
    *(("idle_timeout", value) for value in OPTIONAL_SECONDS),
    *(("timeout", value) for value in OPTIONAL_SECONDS),
    *(("min_rate", value) for value in OPTIONAL_SECONDS),
    *(("rate_window", value) for value in SECONDS),
    *(("keep_text", value) for value in (0, -1, 1.5, True, "100", math.nan, math.inf)),
    *(("on_empty", value) for value in ("raise", "", None, True, 1, "NEXT")),
    *(("on_truncated", value) for value in ("next", "", None, False, "restart")),
    *(
        ("on_interrupt", value)
        for value in ("next", "", None, 5, True, "RAISE", _async_function, [])
    ),
    *(("commit", value) for value in ("first", 5, True, _async_function, [])),
]


@pytest.mark.parametrize(
    ("name", "value"), WRONG, ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_a_wrong_value_is_refused_when_it_is_built(name: str, value: Any) -> None:
    """The error names the option and says what is allowed."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        StreamPolicy(**{name: value})

    assert "write" in str(caught.value) or "allowed" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("on_empty", "raise", ("next", "accept")),
        ("on_truncated", "next", ("raise", "accept")),
        ("on_interrupt", "next", ("raise", "restart", "function")),
        ("commit", 5, ("function", "None")),
        ("on_interrupt", 5, ("raise", "restart", "function")),
    ],
)
def test_a_wrong_choice_is_answered_with_all_that_are_right(
    name: str, value: Any, allowed: tuple[str, ...]
) -> None:
    """Every value that would do is in the message."""
    with pytest.raises(ConfigurationError) as caught:
        StreamPolicy(**{name: value})

    assert [] == [each for each in allowed if each not in str(caught.value)]


def test_an_unknown_option_is_refused() -> None:
    """Its name is told, and a misspelled one is not taken for nothing."""
    with pytest.raises(ConfigurationError, match="idle_timout"):
        StreamPolicy(idle_timout=5.0)  # type: ignore[call-arg]  # on purpose


def test_options_go_by_name_only() -> None:
    """Nothing is passed by position."""
    with pytest.raises(TypeError):
        StreamPolicy(10.0)  # type: ignore[misc]  # on purpose


RIGHT = [
    {},
    {"commit": bool},
    {"commit": None},
    {"on_interrupt": "restart", "restart_marker": None},
    {"on_interrupt": _go_on},
    {"keep_text": 1},
    {"first_item_timeout": 0.001, "idle_timeout": 5, "timeout": 1e9},
    {"min_rate": 0.1, "rate_window": 0.5},
    {"on_empty": "accept", "on_truncated": "accept"},
]


@pytest.mark.parametrize("options", RIGHT, ids=lambda options: "-".join(options) or "none")
def test_what_is_right_is_kept(options: dict[str, Any]) -> None:
    """Every option is an attribute with its value, or its default."""
    defaults = {
        "commit": None,
        "on_interrupt": "raise",
        "keep_text": None,
        "first_item_timeout": None,
        "idle_timeout": None,
        "min_rate": None,
        "rate_window": 10.0,
        "timeout": None,
        "on_empty": "next",
        "on_truncated": "raise",
    }

    policy = StreamPolicy(**options)

    assert {**defaults, **options} == {
        name: getattr(policy, name) for name in {**defaults, **options}
    }


def test_a_marker_without_a_restart_is_a_mistake() -> None:
    """A marker that would never be given is refused, whatever it is."""
    for marker in ("again", None):
        with pytest.raises(ConfigurationError, match="restart_marker"):
            StreamPolicy(restart_marker=marker)


def test_a_marker_is_given_or_refused_with_a_function() -> None:
    """A marker beside a function of the caller's is not silently forgotten."""
    try:
        policy = StreamPolicy(on_interrupt=lambda interruption: {}, restart_marker="again")
    except ConfigurationError:
        return

    def ask(target: Target) -> Iterator[str]:
        yield target.key
        if target.key == GROQ:
            raise TimeoutError

    assert [GROQ, "again", OPENAI] == list(failover([GROQ, OPENAI], stream=policy)(ask)())  # type: ignore[arg-type]


# --- Immutable ---------------------------------------------------------------------------------


def test_nothing_can_be_changed() -> None:
    """Neither an option nor anything else can be set or deleted; the message says what to write."""
    policy = StreamPolicy(idle_timeout=5.0)

    with pytest.raises(AttributeError, match="using"):
        policy.idle_timeout = 10.0  # type: ignore[misc]  # on purpose
    with pytest.raises(AttributeError):
        policy.other = 1  # type: ignore[attr-defined]  # on purpose
    with pytest.raises(AttributeError):
        del policy.idle_timeout

    assert 5.0 == policy.idle_timeout


def test_what_was_passed_may_change_afterwards() -> None:
    """The policy keeps nothing of the caller's that can be changed from outside."""
    options: dict[str, Any] = {"idle_timeout": 5.0}
    policy = StreamPolicy(**options)

    options["idle_timeout"] = 10.0

    assert StreamPolicy(idle_timeout=5.0) == policy


def test_using_gives_a_copy_with_other_options() -> None:
    """The rest stays, and the first one is what it was."""
    first = StreamPolicy(idle_timeout=5.0, on_empty="accept")

    second = first.using(idle_timeout=None, keep_text=10)

    assert (None, 10, "accept") == (second.idle_timeout, second.keep_text, second.on_empty)
    assert (5.0, None) == (first.idle_timeout, first.keep_text)


@pytest.mark.parametrize("change", [{"idle_timeout": 0}, {"unknown": 1}])
def test_using_checks_as_building_does(change: dict[str, Any]) -> None:
    """A wrong change is refused."""
    with pytest.raises(ConfigurationError):
        StreamPolicy().using(**change)


def test_equal_policies_are_one_in_a_set() -> None:
    """They compare by what was said, and hash alike; a marker need not be hashable."""
    one = StreamPolicy(on_interrupt="restart", restart_marker={"a": []}, idle_timeout=5)
    same = StreamPolicy(on_interrupt="restart", restart_marker={"a": []}, idle_timeout=5.0)
    other = StreamPolicy(idle_timeout=6)

    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "policy"
    assert 2 == len({one, same, other})


def test_a_repr_does_not_show_the_marker() -> None:
    """What was said is shown, but for the marker, which is the caller's own and may hold anything."""
    policy = StreamPolicy(
        on_interrupt="restart", restart_marker={"secret": 1}, idle_timeout=5.0, commit=_go_on
    )

    shown = repr(policy)

    assert "secret" not in shown
    assert "secret" not in repr(Target(GROQ, stream=policy))
    assert "secret" not in repr(failover([GROQ], stream=policy))
    assert "idle_timeout=5.0" in shown
    assert "_go_on" in shown
    assert "StreamPolicy()" == repr(StreamPolicy())


class Secretive:
    """A callable object whose repr says too much."""

    def __call__(self, item: Any) -> bool:
        return True

    def __repr__(self) -> str:
        return "secret"


@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))]
)
def test_copies_and_pickles_are_equal(how: Any) -> None:
    """A policy with module-level functions comes back as it was, its missing marker still missing."""
    for policy in (
        StreamPolicy(),
        StreamPolicy(
            commit=_go_on, idle_timeout=5.0, on_interrupt="restart", restart_marker=["again"]
        ),
        StreamPolicy(on_interrupt="restart"),
    ):
        again = how(policy)
        assert policy == again
        assert (policy.restart_marker is StreamPolicy().restart_marker) is (
            again.restart_marker is StreamPolicy().restart_marker
        )
        with pytest.raises(AttributeError):
            again.idle_timeout = 1.0


# --- Where it goes -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["restart", 5, {"idle_timeout": 5}, True, StreamPolicy], ids=repr)
def test_what_is_no_policy_is_refused_where_it_is_written(value: Any) -> None:
    """For a chain and for a target; the message says what to write."""
    with pytest.raises(ConfigurationError, match="StreamPolicy"):
        failover([GROQ], stream=value)
    with pytest.raises(ConfigurationError, match="StreamPolicy"):
        Target(GROQ, stream=value)


def test_what_is_no_stream_policy_is_refused_by_name() -> None:
    """A mistake shows where it is written."""
    wrong_ones: list[Callable[[], object]] = [
        lambda: Target(GROQ, stream=object()),  # type: ignore[arg-type]  # the mistake
        lambda: failover(GROQ, stream=object()),  # type: ignore[arg-type]  # the mistake
        lambda: StreamPolicy(stream=1),  # type: ignore[call-arg]  # the mistake
    ]
    for wrong in wrong_ones:
        with pytest.raises(ConfigurationError, match="stream"):
            wrong()


def test_a_targets_word_goes_over_the_chains() -> None:
    """What the target names, also a default, takes the chain's place; all else stays."""
    asked: list[tuple[str, list[str]]] = []

    def run(*, chain: StreamPolicy | None, target: StreamPolicy | None) -> list[str]:
        @failover([Target(GROQ, stream=target), OPENAI], stream=chain, attempts=1)
        def ask(target: Target) -> Iterator[str]:
            yield target.key
            if target.key == GROQ:
                raise TimeoutError

        items: list[str] = []
        try:
            items.extend(ask())
        except Exception as error:
            items.append(type(error).__name__)
        asked.append((GROQ, items))
        return items

    restarts = StreamPolicy(on_interrupt="restart", restart_marker="again")
    raises = StreamPolicy(on_interrupt="raise")

    assert [GROQ, "again", OPENAI] == run(chain=restarts, target=None)
    assert [GROQ, "again", OPENAI] == run(chain=restarts, target=StreamPolicy(idle_timeout=5.0))
    assert [GROQ, "again", OPENAI] == run(chain=None, target=restarts)
    assert [GROQ, "again", OPENAI] == run(chain=raises, target=restarts)
    assert [GROQ, "other", OPENAI] == run(
        chain=restarts, target=StreamPolicy(on_interrupt="restart", restart_marker="other")
    )


def test_a_target_may_say_raise_under_a_chain_with_a_marker() -> None:
    """A target that does not restart, in a chain that does and has a marker, is no mistake at its first outage."""

    @failover(
        [Target(GROQ, stream=StreamPolicy(on_interrupt="raise")), OPENAI],
        stream=StreamPolicy(on_interrupt="restart", restart_marker="again"),
    )
    def ask(target: Target) -> Iterator[str]:
        yield target.key

    assert [GROQ] == list(ask())


def test_a_target_with_a_policy_is_one_target() -> None:
    """Equal policies make equal targets; the same spec with another policy is refused in one chain."""
    first = Target(GROQ, stream=StreamPolicy(idle_timeout=5.0))

    assert first == Target(GROQ, stream=StreamPolicy(idle_timeout=5.0))
    assert 1 == len(failover([first, Target(GROQ, stream=StreamPolicy(idle_timeout=5.0))]).chain)
    assert isinstance(hash(first), int)
    with pytest.raises(ConfigurationError):
        failover([first, Target(GROQ, stream=StreamPolicy(idle_timeout=6.0))])


def test_a_policy_in_using() -> None:
    """``using(stream=)`` of a policy and of a decorated function take one."""

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> Iterator[str]:
        yield target.key
        if target.key == GROQ:
            raise TimeoutError

    changed = ask.using(stream=StreamPolicy(on_interrupt="restart"))

    assert [GROQ, OPENAI] == list(changed())
    with pytest.raises(ConfigurationError):
        ask.using(stream="restart")  # type: ignore[arg-type]  # on purpose
