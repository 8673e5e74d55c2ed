"""A small application over the integration for Starlette. Checked by pyright and mypy, never run.

Every line that is wrong carries an ignore for each checker, and both report an ignore that hides
nothing.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import assert_type

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Router

from resilient_llm import Target, failover
from resilient_llm.integrations import starlette

starlette.add_exception_handlers(Starlette())
starlette.add_exception_handlers(FastAPI())


@failover("openai/gpt-5-mini")
async def words(target: Target, prompt: str) -> AsyncIterator[str]:
    yield prompt


@failover("openai/gpt-5-mini")
def sync_words(target: Target, prompt: str) -> Iterator[str]:
    yield prompt


async def opened(prompt: str) -> AsyncIterator[str]:
    return words(prompt)


async def managed(prompt: str) -> AsyncIterator[int]:
    yield len(prompt)


async def chat(request: Request) -> StreamingResponse:
    response = await starlette.stream_response(request, words("Hi"))
    assert_type(response, StreamingResponse)
    await starlette.stream_response(request, sync_words("Hi"))
    await starlette.stream_response(request, opened("Hi"))
    await starlette.stream_response(request, aclosing(managed("Hi")))
    await starlette.stream_response(request, ["a", "list"])
    return response


async def wrong(request: Request) -> None:
    starlette.add_exception_handlers(Router())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await starlette.stream_response(request, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await starlette.stream_response(request, words("Hi"), media="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
