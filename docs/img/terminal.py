"""Draws ``terminal.svg``: the commands against a service in an outage, as a terminal shows them.

    python docs/img/terminal.py [file]

Needs the packages of the extra ``test``. The service, its outage and the commands are real; the
providers are functions that raise.
"""

from __future__ import annotations

import os
import pty
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from rich.console import Console
from rich.text import Text
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient_llm import Target, admin, configure, failover
from resilient_llm.demo.picture import svg_of

if TYPE_CHECKING:
    from collections.abc import Generator

WIDTH = 110
TOKEN = "token-of-the-picture"
COMMANDS = (
    "resilient-llm health",
    'resilient-llm bench mistral --for 2h --reason "their status page says two hours"',
    "resilient-llm benches",
    "resilient-llm chains",
)
LATENCIES = {"groq": 0.3, "openai": 0.8, "mistral": 0.5}


def answer(target: Target, prompt: str, *, down: str = "") -> str:
    """Answer, unless the provider is down."""
    if target.provider == down:
        raise ConnectionRefusedError
    time.sleep(LATENCIES[target.provider])
    return prompt


# As it would be called in a service.
answer.__module__, answer.__qualname__ = "shop.llm", "ask"
ask = failover(["groq/llama-3.3-70b-versatile", "mistral/mistral-small", "openai/gpt-5-mini"])(
    answer
)


@contextmanager
def service() -> Generator[str]:
    """Run the admin page of this process on a free port, and return where it is."""
    app = Starlette(routes=[Mount("/llm", admin.app(authorize=admin.token(TOKEN)))])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/llm"
        finally:
            server.should_exit = True
            thread.join(10)


def shown_by(command: str, url: str) -> str:
    """Return what a command writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "RESILIENT_LLM_ADMIN": url,
        "RESILIENT_LLM_TOKEN": TOKEN,
        "COLUMNS": str(WIDTH),
        "TERM": "xterm-256color",
    }
    with subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command.replace("-", "_", 1))],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ):
        os.close(theirs)
        written = bytearray()
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def main() -> None:
    """Draw the picture."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("terminal.svg")
    configure(logging=False)
    for down in ("", "mistral", "groq"):
        ask("Hi", down=down)
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as the process
    with service() as url:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold cyan"))
            console.print(Text.from_ansi(shown_by(command, url)))
    file.write_text(svg_of(console, title="resilient-llm"), encoding="utf-8")


if __name__ == "__main__":
    main()
