"""Streams of clients that a tracer has instrumented are guarded as without it, with the real packages.

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
}

_SCRIPT = '''
import asyncio, json, logging, threading, warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
logging.disable(logging.CRITICAL)
{instrument}
import openai
from resilient_llm import StreamInterruptedError, StreamPolicy, Target, breaker, failover, health, reset

over = threading.Event()


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        mood = self.path.split("/")[1]
        self.close_connection = True
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
asked = {{"messages": [{{"role": "user", "content": "hi"}}], "model": "m", "stream": True}}


def client(mood, cls=openai.OpenAI):
    return cls(base_url=f"{{base}}/{{mood}}/v1", api_key="k", max_retries=0, timeout=20)


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
over.set()
print("done")
'''


@pytest.mark.parametrize("tracer", TRACERS)
def test_traced_streams_are_guarded(tracer: str) -> None:
    """Errors before content fail over, silence ends at its limit, a broken stream is interrupted."""
    package, instrument = TRACERS[tracer]
    pytest.importorskip("openai")
    pytest.importorskip(package)
    environment = {
        **os.environ,
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
        "OTEL_SDK_DISABLED": "false",
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
