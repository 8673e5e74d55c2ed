"""Calls and streams of clients that a tracer has instrumented are guarded as without it.

With the real packages, offline: what a tracer would send has nowhere to go.

Each tracer needs an environment of its own; those that are missing are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# How to instrument the openai client, and the package that must be there.
TRACERS = {
    "openinference": (
        "openinference.instrumentation.openai",
        "from openinference.instrumentation.openai import OpenAIInstrumentor\n"
        "OpenAIInstrumentor().instrument()",
    ),
    "openllmetry": (
        "opentelemetry.instrumentation.openai",
        "from opentelemetry.instrumentation.openai import OpenAIInstrumentor\n"
        "OpenAIInstrumentor().instrument()",
    ),
    "ddtrace": ("ddtrace", "import ddtrace\nddtrace.patch(openai=True)"),
    "logfire": (
        "logfire",
        "import logfire\n"
        "logfire.configure(send_to_logfire=False, console=False)\n"
        "logfire.instrument_openai()",
    ),
    "langfuse": (
        "langfuse",
        "from langfuse import Langfuse\n"
        "Langfuse(public_key='pk', secret_key='sk', host='http://127.0.0.1:9', timeout=1)\n"
        "import langfuse.openai",
    ),
    "sentry": (
        "sentry_sdk",
        "import sentry_sdk\n"
        "from sentry_sdk.integrations.openai import OpenAIIntegration\n"
        "sentry_sdk.init('http://k@127.0.0.1:9/1', traces_sample_rate=1.0, send_default_pii=True,\n"
        "                transport=lambda *_: None, integrations=[OpenAIIntegration()])",
    ),
    "langsmith": ("langsmith", "from langsmith.wrappers import wrap_openai as traced"),
}

_SCRIPT = '''
import asyncio, json, logging, os, threading, warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
logging.disable(logging.CRITICAL)


def traced(client):
    return client


{instrument}
import openai
from resilient_llm import StreamInterruptedError, StreamPolicy, Target, breaker, failover, health, reset

over = threading.Event()


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mood = self.path.split("/")[1]
        self.close_connection = True
        if not body.get("stream"):
            return self.answer(mood)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.say({{"role": "assistant", "content": ""}})
        if mood == "silent":
            over.wait(8)
        if mood in ("dies", "silent"):
            return
        self.say({{"content": "It"}})
        if mood == "breaks":
            return
        self.say({{"content": " is"}})
        self.say({{}}, "stop")
        self.wfile.write(b"e\\r\\ndata: [DONE]\\n\\n\\r\\n0\\r\\n\\r\\n")

    def answer(self, mood):
        if mood == "silent":
            return over.wait(8)
        message = {{"role": "assistant", "content": "It is"}}
        choice = {{"index": 0, "message": message, "finish_reason": "stop"}}
        whole = {{"id": "1", "object": "chat.completion", "created": 0, "model": "m",
                  "choices": [choice]}}
        refusal = {{"error": {{"message": "busy", "code": "server_error"}}}}
        data = json.dumps(whole if mood == "good" else refusal).encode()
        self.send_response(200 if mood == "good" else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def say(self, delta, stop=None):
        choice = {{"index": 0, "delta": delta, "finish_reason": stop}}
        chunk = {{"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m",
                  "choices": [choice]}}
        data = f"data: {{json.dumps(chunk)}}\\n\\n"
        self.wfile.write(f"{{len(data):x}}\\r\\n{{data}}\\r\\n".encode())
        self.wfile.flush()

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{{server.server_port}}"
plain = {{"messages": [{{"role": "user", "content": "hi"}}], "model": "m"}}
asked = {{**plain, "stream": True}}


def client(mood, cls=openai.OpenAI):
    base_url = f"{{base}}/{{mood}}/v1"
    return traced(cls(base_url=base_url, api_key="k", max_retries=0, timeout=20))


def text(chunk):
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def guarded(mood, is_async, inner):
    """A chain whose first target has this mood, and whose second answers."""
    policy = StreamPolicy(first_item_timeout=2.0)
    protect = breaker("inner") if inner else (lambda fn: fn)
    if is_async:
        @protect
        async def create(mood):
            return await client(mood, openai.AsyncOpenAI).chat.completions.create(**asked)

        @failover(["groq/a", "openai/b"], attempts=1, stream=policy)
        async def ask(target: Target):
            return await create(mood if target.provider == "groq" else "good")
    else:
        @protect
        def create(mood):
            return client(mood).chat.completions.create(**asked)

        @failover(["groq/a", "openai/b"], attempts=1, stream=policy)
        def ask(target: Target):
            return create(mood if target.provider == "groq" else "good")
    return ask


def read(ask):
    return "".join(text(chunk) for chunk in ask())


async def aread(ask):
    return "".join([text(chunk) async for chunk in await ask()])


def whole(mood):
    """A chain of calls that give whole answers."""
    @failover(["groq/a", "openai/b"], attempts=1)
    def ask(target: Target):
        where = mood if target.provider == "groq" else "good"
        return client(where).chat.completions.create(**plain).choices[0].message.content
    return ask()


async def awhole(mood):
    @failover(["groq/a", "openai/b"], attempts=1, attempt_timeout=2.0)
    async def ask(target: Target):
        where = mood if target.provider == "groq" else "good"
        answer = await client(where, openai.AsyncOpenAI).chat.completions.create(**plain)
        return answer.choices[0].message.content
    return await ask()


read(breaker("warm up")(lambda: client("good").chat.completions.create(**asked)))
for is_async in (False, True):
    for inner in (False, True):
        def run(mood):
            reset()
            ask = guarded(mood, is_async, inner)
            return asyncio.run(aread(ask)) if is_async else read(ask)

        def errors():
            return health(["groq/a"])["groq/a"].errors, health(["openai/b"])["openai/b"].errors

        where = (is_async, inner)
        assert run("good") == "It is" and errors() == (0, 0), where
        assert run("dies") == "It is" and errors() == (1, 0), where
        assert run("silent") == "It is" and errors() == (1, 0), where
        try:
            run("breaks")
        except StreamInterruptedError as error:
            assert error.items_sent == 2 and errors() == (1, 0), where
        else:
            raise AssertionError(where)
for call in (whole, lambda mood: asyncio.run(awhole(mood))):
    for mood in ("good", "busy", "silent"):
        if mood == "silent" and call is whole:
            continue  # its own client's timeout ends it
        reset()
        assert call(mood) == "It is", mood
        assert errors() == ((0, 0) if mood == "good" else (1, 0)), (mood, errors())
over.set()
print("done", flush=True)
os._exit(0)  # without a farewell to the tracer's server
'''


@pytest.mark.parametrize("tracer", TRACERS)
def test_traced_calls_and_streams_are_guarded(tracer: str) -> None:
    """Errors and silence before content fail over, and a broken stream is interrupted."""
    package, instrument = TRACERS[tracer]
    pytest.importorskip("openai")
    pytest.importorskip(package)
    environment = {
        **os.environ,
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
        "OTEL_SDK_DISABLED": "false",
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": "http://127.0.0.1:9",
        "LANGSMITH_API_KEY": "k",
    }

    # In a process of its own, since it patches the client for good.
    child = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(instrument=instrument)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=environment,
    )

    assert "done" in child.stdout, child.stderr
