"""``make pictures``: screenshots of the admin page.

They show one bad night, played by scripted providers on a fake clock, so that nothing in them
depends on the day or on the machine.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from resilient_llm import Budget, Target, admin, bench_model, configure, failover
from resilient_llm.testing import FakeClock, fake_clock, http_error, isolated
from tests.support.asgi import HOST, TOKEN, mounted, served
from tests.system.browser import chromium, text_of, wait

IMAGES = Path(__file__).parent
GROQ, OPENAI = "groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"
CLAUDE = "anthropic/claude-sonnet"
MISTRAL, COHERE = "mistral/mistral-large", "cohere/command-a"

_errors: dict[str, Any] = {}
"""``{key: what its next calls raise}``"""


def _call(clock: FakeClock, target: Target) -> str:
    clock.advance(len(target.key) / 50)
    error = _errors.get(target.key)
    if error is not None:
        raise error
    return "hello"


def _night(clock: FakeClock, app: Any) -> list[Any]:
    """Let a quarter of an hour pass in which providers fail; return the functions that called."""

    def answer(target: Target) -> str:
        return _call(clock, target)

    def summarise(target: Target) -> str:
        return _call(clock, target)

    for function in (answer, summarise):
        function.__module__, function.__qualname__ = "shop.assistant", function.__name__
    functions = [
        failover([GROQ, OPENAI, CLAUDE], attempts=1)(answer),
        failover([MISTRAL, COHERE], attempts=1)(summarise),
    ]
    for step in range(60):
        _errors[GROQ] = http_error(503) if 38 < step < 46 or step % 9 == 4 else None
        _errors[MISTRAL] = http_error(401) if step > 50 else None
        _errors[COHERE] = http_error(429, headers={"retry-after": "40"}) if step == 59 else None
        if step == 30:
            bench_model(CLAUDE, 5400.0, reason="answers in the wrong language", by="alice")
        for _ in range(3 + step % 5):
            for function in functions:
                with suppress(Exception):
                    function()
        clock.advance(10.0)
        app._watch.samples.take()
    return functions


def _page_pictures(address: str) -> None:
    for name, width, height, dark in (
        ("admin-page", 1280, 980, False),
        ("admin-page-dark", 1280, 980, True),
        ("admin-page-phone", 360, 780, True),
        ("admin-page-bench", 1280, 720, False),
    ):
        with chromium(width=width, height=height, dark=dark) as browser:
            browser.get(f"{address}#token={TOKEN}")
            wait(lambda browser=browser: text_of(browser, "#connection-text") == "live", "the page")
            wait(lambda browser=browser: text_of(browser, "#events-list"), "the events")
            if name == "admin-page-bench":
                _fill_dialog(browser)
            time.sleep(0.5)
            browser.save_screenshot(str(IMAGES / f"{name}.png"))


def _fill_dialog(browser: Any) -> None:
    button = f"button[aria-label='Bench {OPENAI}']"
    browser.execute_script("document.querySelector(arguments[0]).click()", button)
    browser.find_element("id", "bench-reason").send_keys("bad answers since 02:10")


def main() -> None:
    """Make all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with isolated(), fake_clock() as clock:
        configure(
            logging=False,
            budgets=[
                Budget(usd=0.5, of="openai", on_unbounded=500),
                Budget(calls=600, per="day", name="free tier", of="groq"),
            ],
            prices={"*": (100, 1000)},
        )
        app: Any = admin.app(authorize=admin.token(TOKEN))
        functions = _night(clock, app)
        with served(mounted(app)) as port:
            address = f"http://{HOST}:{port}/llm/"
            _page_pictures(address)
        del functions


if __name__ == "__main__":
    main()
