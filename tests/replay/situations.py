"""Errors that the wire alone does not make: cancellations, wrappers, groups, bugs of the caller's own.

Each function takes a case and raises, or gives a coroutine that does.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import http.client
import importlib
import json
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from tests.replay.calls import KEY, MESSAGES
from tests.replay.cases import Case
from tests.replay.server import NO_SUCH_HOST, Server
from tests.support.server import HOST, reset, unused_port

_NEVER_ANSWERS = {"fault": "timeout"}
# Long enough for the request to be under way.
_SOON = 0.15
_PATIENCE = 10


class AppError(RuntimeError):
    """An application's own, around the error of a client."""


async def task_cancelled(case: Case) -> Any:
    """Cancel the task of a call that is waiting for its answer."""
    with Server(_NEVER_ANSWERS) as server:
        task = asyncio.ensure_future(_waiting_call(case.sdk, server.url))
        await asyncio.sleep(_SOON)
        message = case.situation.get("message")
        task.cancel(*([message] if message else []))
        return await task


async def _waiting_call(sdk: str, url: str) -> Any:
    if sdk == "python":
        return await asyncio.sleep(_PATIENCE)
    if sdk == "aiohttp":
        import aiohttp

        async with aiohttp.ClientSession() as session, session.post(url) as answer:
            return await answer.json()
    if sdk == "anthropic":
        import anthropic

        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0) as client:
            return await client.messages.create(
                model="claude-haiku", max_tokens=1, messages=MESSAGES
            )
    import openai

    async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
        return await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)


async def own_timeout(case: Case) -> Any:
    """Let the caller's own patience with a call end."""
    import httpx

    with Server(_NEVER_ANSWERS) as server:
        async with httpx.AsyncClient(timeout=_PATIENCE) as client:
            if case.situation["by"] == "asyncio.wait_for":
                return await asyncio.wait_for(client.post(server.url), _SOON)
            async with asyncio.timeout(_SOON):
                return await client.post(server.url)


def trio_cancelled(_case: Case) -> Any:
    """Cancel a call on trio. Outside of its scope the error is caught for good, so one is kept from inside."""
    import httpx
    import trio

    kept: list[BaseException] = []

    async def story() -> None:
        with Server(_NEVER_ANSWERS) as server, trio.move_on_after(_SOON):
            async with httpx.AsyncClient(timeout=_PATIENCE) as client:
                try:
                    await client.post(server.url)
                except trio.Cancelled as cancelled:
                    kept.append(cancelled)
                    raise

    trio.run(story)
    raise kept[0]


def interrupted(_case: Case) -> Any:
    """Press Ctrl-C while a call is waiting; needs the main thread, as signals do."""
    import httpx

    main = threading.main_thread().ident
    assert main == threading.get_ident(), "signals are delivered to the main thread only"

    def press() -> None:
        time.sleep(_SOON)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            Server(_NEVER_ANSWERS, on_request=press) as server,
            httpx.Client(timeout=_PATIENCE) as client,
        ):
            return client.post(server.url)
    finally:
        signal.signal(signal.SIGINT, before)


def future_cancelled(_case: Case) -> Any:
    """Ask for the result of a future that was cancelled before it ran."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        pool.submit(gate.wait, _PATIENCE)
        waiting = pool.submit(len, "never")
        waiting.cancel()
        gate.set()
        return waiting.result()


def exited(_case: Case) -> Any:
    """Leave the program from inside a call."""
    sys.exit(3)


def closed_generator(_case: Case) -> Any:
    """Stop reading a stream early. Closing catches the error, so one is kept from inside."""
    import httpx

    kept: list[BaseException] = []

    def pieces(url: str) -> Iterator[str]:
        with httpx.Client(timeout=_PATIENCE) as client, client.stream("GET", url) as answer:
            try:
                yield from answer.iter_lines()
            except GeneratorExit as left:
                kept.append(left)
                raise

    with Server({"chunks": ["data: {}\n\n"] * 3}) as server:
        stream = pieces(server.url)
        next(stream)
        stream.close()
    raise kept[0]


async def task_group(case: Case) -> Any:
    """Ask in a group of tasks, whose errors leave together."""
    import openai

    with Server(case.wire) as server:
        async with (
            openai.AsyncOpenAI(api_key=KEY, base_url=server.url, max_retries=0) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(case.situation["members"]):
                group.create_task(
                    client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)
                )


def raised_from(case: Case) -> Any:
    """Raise the caller's own error because of a client's: as its cause, in its context, or hiding it."""
    import openai

    how = case.situation["how"]
    with (
        Server(case.wire) as server,
        openai.OpenAI(api_key=KEY, base_url=server.url, max_retries=0) as client,
    ):
        try:
            return client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)
        except openai.OpenAIError as error:
            if how == "cause":
                raise AppError("the model could not be asked") from error
            if how == "suppressed":
                raise AppError("the model could not be asked") from None
            raise AppError("the model could not be asked")  # noqa: B904  # how == "context"


def raised(case: Case) -> Any:
    """Raise a built-in error with a text that somebody's code gives it."""
    raise getattr(builtins, case.situation["class"])(*case.situation["args"])


def python_error(case: Case) -> Any:
    """Make a mistake of the kinds that everybody makes."""
    return _MISTAKES[case.situation["class"]]()


def _assertion() -> Any:
    raise AssertionError("messages must be empty")


def _not_implemented() -> Any:
    raise NotImplementedError("this backend cannot stream")


def _recursion() -> Any:
    return _recursion()


async def _empty_async_generator() -> Any:
    async def nothing() -> Any:
        for piece in ():
            yield piece

    return await anext(nothing())


_MISTAKES: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: int("not a number"),
    "TypeError": lambda: len(None),  # type: ignore[arg-type]  # that is the mistake
    "AttributeError": lambda: None.choices,  # type: ignore[attr-defined]  # that is the mistake
    "KeyError": lambda: {}["choices"],
    "IndexError": lambda: [][0],
    "ZeroDivisionError": lambda: 1 / 0,
    "AssertionError": _assertion,
    "NotImplementedError": _not_implemented,
    "RecursionError": _recursion,
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": _empty_async_generator,
    "JSONDecodeError": lambda: json.loads("Sure! Here is your JSON: {"),
    "UnicodeDecodeError": lambda: b"\xff\xfe\x00".decode("utf-8"),
    "FileNotFoundError": lambda: Path("no-such-prompt.txt").read_text(encoding="utf-8"),
    "ImportError": lambda: importlib.import_module("a_module_that_is_not_there"),
}


def socket_error(case: Case) -> Any:
    """Let the kernel or the standard library raise, without any client."""
    return _SOCKETS[case.situation["class"]]()


@contextlib.contextmanager
def _connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a connection."""
    with (
        socket.create_server((HOST, 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
    ):
        theirs, _ = listener.accept()
        with theirs:
            yield ours, theirs


def _reset() -> Any:
    with _connection() as (ours, theirs):
        reset(theirs)
        return ours.recv(1)


def _broken_pipe() -> Any:
    with _connection() as (ours, theirs):
        reset(theirs)
        # The reset is told once, to whoever looks first.
        with contextlib.suppress(ConnectionResetError):
            ours.recv(1)
        return ours.sendall(b"?")


def _silence() -> Any:
    with _connection() as (ours, _):
        ours.settimeout(0.05)
        return ours.recv(1)


async def _incomplete() -> Any:
    with Server({"body": "half", "fault": "short_body"}) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        try:
            return await reader.readexactly(5000)
        finally:
            writer.close()


def _disconnected() -> Any:
    with Server({"fault": "close"}) as server:
        client = http.client.HTTPConnection(HOST, server.port, timeout=_PATIENCE)
        try:
            client.request("GET", "/")
            return client.getresponse()
        finally:
            client.close()


_SOCKETS: dict[str, Callable[[], Any]] = {
    "ConnectionRefusedError": lambda: socket.create_connection((HOST, unused_port())),
    "ConnectionResetError": _reset,
    "BrokenPipeError": _broken_pipe,
    "gaierror": lambda: socket.create_connection((NO_SUCH_HOST, 80)),
    "TimeoutError": _silence,
    "IncompleteReadError": _incomplete,
    "http.client.RemoteDisconnected": _disconnected,
}


def urllib_error(case: Case) -> Any:
    """Ask with the standard library."""
    with Server(case.wire) as server:
        request = urllib.request.Request(f"{server.url}/v1/messages", data=b"{}")
        return urllib.request.urlopen(request, timeout=_PATIENCE)


SITUATIONS: dict[str, Callable[[Case], Any] | Callable[[Case], Coroutine[Any, Any, Any]]] = {
    each.__name__: each
    for each in (
        closed_generator,
        exited,
        future_cancelled,
        interrupted,
        own_timeout,
        python_error,
        raised,
        raised_from,
        socket_error,
        task_cancelled,
        task_group,
        trio_cancelled,
        urllib_error,
    )
}
