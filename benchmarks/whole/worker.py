"""One environment's part in `whole_calls.py`: makes the calls that it is told to make.

Owns the protocol, the loop around the measured calls, and the subjects which every
environment has: the bare client, a fallback by hand, and resilient_llm. A contender's
script adds its own and calls `serve`.

One request and one reply per line of JSON, on standard input and output:

    {"do": "describe"}                                what there is, in which versions
    {"do": "open", "subject": ..., "case": ..., "mode": ..., "history": 3}
                                                      makes it, with so many calls of history
    {"do": "run", "calls": 20}                        seconds of each call, answers by text
    {"do": "close"}                                   forgets every subject
    {"do": "bare", "mode": ..., "calls": 20}          the same of the bare client
    {"do": "connects"}                                ``{"host:port": connections asked for}``; only with --audit
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from cases import (
    ALIVE,
    CASES,
    COOLDOWN,
    FIRST_MODEL,
    MODES,
    PROMPT,
    SECOND_MODEL,
    Case,
    Mode,
    Places,
)

Call = Callable[[str], Any]
"""Takes a prompt and returns the answer's text, or an awaitable of it."""

SETTLE = 0.02
"""Seconds after a slice, so that what a subject left to threads and tasks is not charged to the next one."""


class Subject(ABC):
    """Something that calls the first provider and, if that fails, the second."""

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]
    """``{policy: what was set}``, in the words of the subject's own documentation."""
    attempts: ClassVar[Mapping[str, int]]
    """``{policy: requests to the dead provider by the first call after its death}``."""
    cooldown: ClassVar[Mapping[str, float | None]]
    """``{policy: seconds for which later calls leave a dead provider out}``; None if they do not."""
    is_alone: ClassVar[bool] = False
    """Whether it would slow others down if it were not closed before they are called."""

    def __init__(self, case: Case, mode: Mode, places: Places) -> None:
        self.case, self.mode, self.places = case, mode, places
        self.first_url, self.second_url = places.url(case.first), places.url("second")

    @abstractmethod
    def make(self) -> Call:
        """Return what makes one call, with nothing remembered of the calls before."""

    def close(self) -> None:  # noqa: B027  # nothing to close is usual
        """Leave nothing behind."""


def messages(prompt: str) -> Any:
    """Return a prompt as the API wants it."""
    return [{"role": "user", "content": prompt}]


# What every environment has.


class Clients:
    """The SDK's own clients, which do not retry."""

    def __init__(self, first_url: str, second_url: str, mode: Mode) -> None:
        from openai import AsyncOpenAI, OpenAI

        kind: Any = OpenAI if mode == "sync" else AsyncOpenAI
        self.first = kind(api_key="none", base_url=first_url, max_retries=0)
        self.second = kind(api_key="none", base_url=second_url, max_retries=0)


class Bare(Subject):
    """The bare client, which calls the second provider only: the baseline."""

    name = "bare client"

    def make(self) -> Call:
        client = Clients(self.first_url, self.second_url, self.mode).second

        def call(prompt: str) -> str:
            return (
                client.chat.completions.create(model=SECOND_MODEL, messages=messages(prompt))
                .choices[0]
                .message.content
            )

        async def call_async(prompt: str) -> str:
            reply = await client.chat.completions.create(
                model=SECOND_MODEL, messages=messages(prompt)
            )
            return reply.choices[0].message.content

        return call if self.mode == "sync" else call_async


class ByHand(Subject):
    """The least that a fallback can be: two bare clients in a ``try`` and its ``except``."""

    name = "try/except by hand"
    settings: ClassVar = dict.fromkeys(("default", "once", "equal"), "`except openai.APIError`")
    attempts: ClassVar = {"default": 1, "once": 1, "equal": 1}
    cooldown: ClassVar = {"default": None, "once": None, "equal": None}

    def make(self) -> Call:
        from openai import APIError

        clients = Clients(self.first_url, self.second_url, self.mode)
        first, second = clients.first.chat.completions, clients.second.chat.completions

        def call(prompt: str) -> str:
            try:
                reply = first.create(model=FIRST_MODEL, messages=messages(prompt))
            except APIError:
                reply = second.create(model=SECOND_MODEL, messages=messages(prompt))
            return reply.choices[0].message.content

        async def call_async(prompt: str) -> str:
            try:
                reply = await first.create(model=FIRST_MODEL, messages=messages(prompt))
            except APIError:
                reply = await second.create(model=SECOND_MODEL, messages=messages(prompt))
            return reply.choices[0].message.content

        return call if self.mode == "sync" else call_async


class Ours(Subject):
    """resilient_llm around the same two clients."""

    name = "resilient_llm"
    settings: ClassVar = {
        "default": "`failover(chain)`: 3 attempts, 30 s cooldown",
        "once": '`attempts=1`, breakers `mode="metrics_only"`',
        "equal": f"`attempts=1`, breakers `failures=1, cooldown={COOLDOWN:g}`",
    }
    attempts: ClassVar = {"default": 3, "once": 1, "equal": 1}
    cooldown: ClassVar = {"default": 30.0, "once": None, "equal": COOLDOWN}
    breakers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "once": {"mode": "metrics_only"},
        "equal": {"failures": 1, "cooldown": COOLDOWN},
    }

    def begin(self) -> list[str]:
        """Return the chain, with the breakers of the case in force and nothing remembered."""
        from resilient_llm import breaker, reset

        reset()
        policy = self.case.policy
        # Every policy has circuits of its own, since their settings outlive a reset.
        chain = [f"first-{policy}/{FIRST_MODEL}", f"second-{policy}/{SECOND_MODEL}"]
        keys = {part for target in chain for part in (target, target.partition("/")[0])}
        # Held, since settings belong to the guards that name them.
        self.guards = (
            [breaker(key, **self.breakers[policy]) for key in keys] if self.breakers[policy] else []
        )
        return chain

    def make(self) -> Call:
        from resilient_llm import Target, failover

        chain = self.begin()
        policy = self.case.policy
        clients = Clients(self.first_url, self.second_url, self.mode)
        completions = {
            f"first-{policy}": clients.first.chat.completions,
            f"second-{policy}": clients.second.chat.completions,
        }
        decorate = (
            failover(chain=chain) if policy == "default" else failover(chain=chain, attempts=1)
        )

        @decorate
        def ask(target: Target, prompt: str) -> str:
            reply = completions[target.provider].create(
                model=target.model, messages=messages(prompt)
            )
            return reply.choices[0].message.content

        @decorate
        async def ask_async(target: Target, prompt: str) -> str:
            reply = await completions[target.provider].create(
                model=target.model, messages=messages(prompt)
            )
            return reply.choices[0].message.content

        return ask if self.mode == "sync" else ask_async

    def close(self) -> None:
        from resilient_llm import reset

        reset()


class Wrapped(Ours):
    """The same two clients as one, by `resilient_llm.integrations.wrap`."""

    name = "resilient_llm wrap"

    def make(self) -> Call:
        from resilient_llm.integrations import wrap

        chain = self.begin()
        policy = self.case.policy
        clients = Clients(self.first_url, self.second_url, self.mode)
        options: Any = {} if policy == "default" else {"attempts": 1}
        client: Any = wrap(
            {f"first-{policy}": clients.first, f"second-{policy}": clients.second},
            chain=chain,
            **options,
        )

        def call(prompt: str) -> str:
            reply = client.chat.completions.create(model="auto", messages=messages(prompt))
            return reply.choices[0].message.content

        async def call_async(prompt: str) -> str:
            reply = await client.chat.completions.create(model="auto", messages=messages(prompt))
            return reply.choices[0].message.content

        return call if self.mode == "sync" else call_async


# The protocol.


class Worker:
    """Makes calls of one subject at a time, and of the bare client whenever asked."""

    def __init__(
        self, subjects: Sequence[type[Subject]], packages: Sequence[str], places: Places
    ) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        self.packages, self.places = packages, places
        # One loop for all asynchronous calls: clients keep their connections in it.
        self.runner = asyncio.Runner()
        self.bare = {mode: Bare(CASES[0], mode, places).make() for mode in MODES}
        self.subject: Subject | None = None
        self.call: Call | None = None
        self.open_ones: dict[tuple[str, str, Mode], tuple[Subject, Call]] = {}

    def describe(self) -> dict[str, Any]:
        return {
            "python": platform.python_version(),
            "versions": {package: importlib.metadata.version(package) for package in self.packages},
            "subjects": {
                name: {
                    "settings": subject.settings,
                    "attempts": subject.attempts,
                    "cooldown": subject.cooldown,
                }
                for name, subject in self.subjects.items()
            },
        }

    def open(self, subject: str, case: str, mode: Mode, history: int) -> dict[str, Any]:
        """Make a subject, or take the one that is open already."""
        for key, (other, _) in list(self.open_ones.items()):
            if other.is_alone and key != (subject, case, mode):
                other.close()
                del self.open_ones[key]
        if (found := self.open_ones.get((subject, case, mode))) is not None:
            self.subject, self.call = found
            return {}
        chosen = next(each for each in CASES if each.name == case)
        self.subject = self.subjects[subject](chosen, mode, self.places)
        self.call = self._alive()
        self.open_ones[subject, case, mode] = self.subject, self.call
        self._in_mode(mode, self.call, history)
        return {}

    def close(self) -> dict[str, Any]:
        """Forget every subject."""
        for subject, _ in self.open_ones.values():
            subject.close()
        self.open_ones.clear()
        self.subject = self.call = None
        return {}

    def run(self, calls: int) -> dict[str, Any]:
        assert self.subject is not None
        assert self.call is not None
        if not self.subject.case.is_first_call:
            return self._in_mode(self.subject.mode, self.call, calls)
        runs = [self._in_mode(self.subject.mode, self._alive(), 1) for _ in range(calls)]
        answers = sum((Counter(run["answers"]) for run in runs), Counter())
        return {
            "seconds": [seconds for run in runs for seconds in run["seconds"]],
            "answers": answers,
            "cpu": None,
        }

    def run_bare(self, mode: Mode, calls: int) -> dict[str, Any]:
        return self._in_mode(mode, self.bare[mode], calls)

    def _alive(self) -> Call:
        """Return the subject's call, made anew, after calls that found the first provider alive."""
        assert self.subject is not None
        call = self.subject.make()
        for _ in range(2):
            self._in_mode(self.subject.mode, call, 1, ALIVE)
        return call

    def _in_mode(self, mode: Mode, call: Call, calls: int, prompt: str = PROMPT) -> dict[str, Any]:
        if mode == "async":
            return self.runner.run(_run_async(call, calls, prompt))
        return _run(call, calls, prompt)


def _run(call: Call, calls: int, prompt: str) -> dict[str, Any]:
    seconds: list[float] = []
    answers: Counter[str] = Counter()
    cpu = time.process_time()
    for _ in range(calls):
        began = time.perf_counter()
        text = call(prompt)
        seconds.append(time.perf_counter() - began)
        answers[text] += 1
    time.sleep(SETTLE)
    return {
        "seconds": seconds,
        "answers": answers,
        "cpu": (time.process_time() - cpu) / max(1, calls),
    }


async def _run_async(
    call: Callable[[str], Awaitable[str]], calls: int, prompt: str
) -> dict[str, Any]:
    seconds: list[float] = []
    answers: Counter[str] = Counter()
    cpu = time.process_time()
    for _ in range(calls):
        began = time.perf_counter()
        text = await call(prompt)
        seconds.append(time.perf_counter() - began)
        answers[text] += 1
    await asyncio.sleep(SETTLE)
    return {
        "seconds": seconds,
        "answers": answers,
        "cpu": (time.process_time() - cpu) / max(1, calls),
    }


connects: Counter[str] = Counter()


def _count_connects(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        connects[f"{arguments[1][0]}:{arguments[1][1]}"] += 1
    elif event == "socket.getaddrinfo":
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
        connects[f"lookup of {host}"] += 1


def audit_if_asked() -> None:
    """Count connections from now on, with ``--audit``; first of all, so that imports are seen too."""
    if "--audit" in sys.argv:
        sys.addaudithook(_count_connects)


def serve(subjects: Sequence[type[Subject]], packages: Sequence[str]) -> None:
    """Answer requests until standard input ends.

    Args:
        subjects: What this environment has beside `ByHand`, `Ours` and `Wrapped`.
        packages: Distributions whose versions matter, beside those of every environment.
    """
    places = Places(int(sys.argv[1]), int(sys.argv[2]))
    # What libraries print is not part of the protocol.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(
        [ByHand, Ours, Wrapped, *subjects], ["openai", "resilient-llm", *packages], places
    )
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("do"):
            case "describe":
                reply = worker.describe()
            case "open":
                reply = worker.open(**request)
            case "run":
                reply = worker.run(**request)
            case "close":
                reply = worker.close()
            case "bare":
                reply = worker.run_bare(**request)
            case "connects":
                reply = dict(connects)
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
