"""A chain of two providers through the real OpenAI client; the first one is down.

Both providers are small servers on this machine, so that the example runs offline:

    python examples/fallback_chain.py
"""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from openai import AsyncOpenAI

from resilient_llm import Target, Trace, failover


class Provider(BaseHTTPRequestHandler):
    """Answers a chat completion, or 503 when its server is marked as down."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.is_down:  # type: ignore[attr-defined]  # set below
            status, body = 503, {"error": {"message": "try later", "type": "server_error"}}
        else:
            message = {"role": "assistant", "content": f"{request['model']}: Rayleigh scattering."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [choice],
            }
            status = 200
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Log nothing: `main` prints the attempts."""


def start_provider(*, is_down: bool) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.is_down = is_down  # type: ignore[attr-defined]  # read by the handler
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


servers = {"groq": start_provider(is_down=True), "openai": start_provider(is_down=False)}


def client_for(provider: str) -> AsyncOpenAI:
    """Return a client that does not retry, since the policy does."""
    url = f"http://127.0.0.1:{servers[provider].server_port}/v1"
    return AsyncOpenAI(base_url=url, api_key="not-needed", max_retries=0)


@failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"], timeout=20.0)
async def ask(
    clients: dict[str, AsyncOpenAI], prompt: str, *, target: Target = Target("groq/llama")
) -> str:
    reply = await clients[target.provider].chat.completions.create(
        model=target.model, messages=[{"role": "user", "content": prompt}]
    )
    return reply.choices[0].message.content or ""


async def main() -> None:
    clients = {provider: client_for(provider) for provider in servers}
    for prompt in ("Why is the sky blue?", "And in the evening?"):
        with Trace() as trace:
            answer = await ask(clients, prompt)
        print(answer)
        for attempt in trace.calls[0].attempts:
            print(f"    {attempt.target}: {attempt.reason or 'answered'}, status {attempt.status}")
    for client in clients.values():
        await client.close()
    for server in servers.values():
        server.shutdown()
        server.server_close()


asyncio.run(main())
