"""The admin page in a real browser: what it shows, and that all of it can be done without a mouse."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    Target,
    ToolLoopError,
    admin,
    bench_model,
    breaker,
    chains,
    config,
    configure,
    failover,
    list_benched,
    spend_key,
    unbench_model,
)
from resilient_llm.admin import _views
from resilient_llm.testing import fake_clock, http_error
from tests.support.asgi import HOST, TOKEN, mounted, served
from tests.support.sharing import peer
from tests.support.spending import asking
from tests.support.valkey import Server
from tests.system.browser import chromium, text_of, wait

GROQ, OPENAI = "groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"
REASON = "<img src=x onerror='document.title=1'><script>document.title=2</script> \x1b[31m\u202e"

pytestmark = pytest.mark.timeout(180)


@failover([GROQ, OPENAI], attempts=1)
def ask(target: Target, fails: str = "") -> str:
    if target.provider == fails:
        raise http_error(503)
    return target.key


@pytest.fixture
def serve(_fresh_state: None) -> Iterator[Callable[..., Any]]:
    """Serve the page at ``/llm``; return the address with the token in its fragment."""
    from contextlib import ExitStack

    configure(logging=False)
    with ExitStack() as stack:

        def start(at: str = "/llm", wrap: Any = lambda app: app, **options: Any) -> str:
            options.setdefault("authorize", admin.token(TOKEN))
            port = stack.enter_context(served(wrap(mounted(admin.app(**options), at))))
            return f"http://{HOST}:{port}{at}/"

        yield start


@pytest.fixture
def browser() -> Iterator[Any]:
    """A browser of the size of a desk."""
    with chromium() as driver:
        yield driver


def _open(driver: Any, address: str) -> None:
    driver.get(f"{address}#token={TOKEN}")
    wait(lambda: text_of(driver, "#connection-text") == "live", "the page is live")


def _benched(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#benched-list .key')].map(e => e.innerText)"
    return driver.execute_script(script)


def _button(driver: Any, label: str) -> Any:
    script = (
        "return [...document.querySelectorAll('button')].find(e => e.offsetParent !== null && "
        "(e.getAttribute('aria-label') === arguments[0] || e.innerText === arguments[0]))"
    )
    found = wait(lambda: driver.execute_script(script, label), f"the button {label!r}")
    driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", found)
    return found


def _errors(driver: Any) -> list[str]:
    return [each["message"] for each in driver.get_log("browser") if each["level"] == "SEVERE"]


# What it shows.


def test_it_says_at_once_what_is_benched_why_and_since_when(serve: Any, browser: Any) -> None:
    """The first screen has key, reason, who, since and until of a bench, before everything else."""
    bench_model(GROQ, 3600.0, reason="bad answers", by="alice")
    with pytest.raises(Exception), breaker("openai"):  # noqa: B017  # of a provider
        raise http_error(401)

    began = time.monotonic()
    _open(browser, serve())
    took = time.monotonic() - began
    card = next(
        each for each in text_of(browser, "#benched-list").split("\nChange\n") if GROQ in each
    )

    assert took < 10
    assert ["openai", GROQ] == _benched(browser)
    assert "2 benched" in text_of(browser, "#summary")
    assert "(2)" in browser.title
    for each in ("bad answers", "by alice"):
        assert each in card
    whole = text_of(browser, "#benched-list")
    assert "since" in whole
    assert "until" in whole
    assert "automatic, auth_dead" in whole
    place = browser.execute_script(
        "return document.querySelector('#benched-list').getBoundingClientRect().bottom"
    )
    assert place < 900
    assert [] == _errors(browser)


def test_benches_of_one_millisecond_are_in_order(serve: Any, browser: Any) -> None:
    """The newest is the first, also where a Date of the browser cannot tell."""
    with fake_clock() as clock:
        clock.advance(0.000_4)  # within a millisecond
        bench_model(GROQ, reason="first")
        clock.advance(0.000_1)
        bench_model(OPENAI, reason="second")
        _open(browser, serve())

        assert [OPENAI, GROQ] == _benched(browser)


def test_a_row_has_the_figures_of_a_target(serve: Any, browser: Any) -> None:
    """State, until, why, by whom, error share, latency, calls and 15 minutes are in the table."""
    for _ in range(3):
        ask()
    for _ in range(1):
        ask("groq")
    bench_model(OPENAI, reason="bill", by="bob")
    _open(browser, serve())

    rows = text_of(browser, "#targets-list")

    assert "benched" in rows
    assert "bill, by bob, until unbenched" in rows.replace("\n", " ")
    assert "25 % (1)" in rows
    assert "ms" in rows
    labels = browser.execute_script(
        "return [...document.querySelectorAll('.spark')].map(e => e.getAttribute('aria-label'))"
    )
    assert all(" in " in each for each in labels)


def test_a_change_is_seen_within_two_seconds(serve: Any, browser: Any) -> None:
    """Benches, their ends, and what calls count, without a click."""
    _open(browser, serve())
    wait(lambda: "No" in text_of(browser, "#benched-none") or True, "an empty list")

    for number in range(3):
        key = f"groq/model-{number}"
        bench_model(key, 60.0, reason="x")
        wait(lambda key=key: key in _benched(browser), "the bench", seconds=2.0)
        unbench_model(key)
        wait(lambda key=key: key not in _benched(browser), "its end", seconds=2.0)
    for _ in range(7):
        ask()
    script = "return [...document.querySelectorAll('td[data-name=calls]')].map(e => e.innerText)"
    # A healthy call emits no event, so this is the time between two questions, and some for them.
    wait(lambda: "7" in browser.execute_script(script), "the calls", seconds=3.0)


def test_the_file_and_the_names_of_chains_are_shown(
    serve: Any, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain is shown as it was written; the file with its profile, and why a reload failed."""
    monkeypatch.setenv("LLM_MODEL", "nobody-may-see-this")
    path = tmp_path / "<b>config.toml"
    good = "[settings]\nprofile = 'cheap'\n[chains]\nfast = 'groq/llama'\nslow = 'x/y'\n"
    good += "[profiles.cheap]\nchains = { fast = 'groq/llama, openai/gpt' }\n"
    path.write_text(good)
    chains.define({"slow": "a/b"})
    config.load(path)

    @failover(["@fast", "anthropic/claude"])
    def named(target: Target) -> str:
        return target.key

    _open(browser, serve())

    def chain() -> str:
        items = browser.execute_script(
            "return [...document.querySelectorAll('.chain')].map(e => e.innerText)"
        )
        return next(each for each in items if ".named" in each)

    wait(lambda: "written as @fast, anthropic/claude" in chain(), "the names")
    assert all(key in chain() for key in ("groq/llama", "openai/gpt", "anthropic/claude"))
    said = text_of(browser, "#config")
    assert f"Configured by {path}, loaded " in said
    assert "; profile cheap; code hides chains.slow" in said
    assert "written as" not in browser.execute_script(
        "return [...document.querySelectorAll('.chain')].find(e => e.innerText.includes('.ask'))"
        ".innerText"
    )
    assert "" == text_of(browser, "#config-failed")

    path.write_text(f"{good}[limits.groq]\nrequests = '${{LLM_MODEL}}'\n")
    with pytest.raises(config.InvalidConfigError):
        config.reload()

    failed = wait(lambda: text_of(browser, "#config-failed"), "the failure")
    assert "The last reload failed, and what was loaded before holds: " in failed
    assert "limits.groq.requests" in failed
    assert "nobody-may-see-this" not in browser.page_source

    path.write_text(good)
    config.reload()
    wait(lambda: not text_of(browser, "#config-failed"), "the end of the failure")
    assert [] == _errors(browser)
    del named


def test_a_process_without_a_file_shows_none(serve: Any, browser: Any) -> None:
    """Neither a line about a file nor one about its failure is there."""
    _open(browser, serve())
    wait(lambda: "ask" in text_of(browser, "#chains-list"), "the chains")

    assert ("", "") == (text_of(browser, "#config"), text_of(browser, "#config-failed"))


def test_chains_say_who_is_called_first(serve: Any, browser: Any) -> None:
    """The first live target of a chain is marked; a chain without one is an alarm."""
    _open(browser, serve())

    def chain() -> str:
        items = browser.execute_script(
            "return [...document.querySelectorAll('.chain')].map(e => e.innerText)"
        )
        return next(each for each in items if ".ask" in each)

    wait(lambda: f"{GROQ}\ncalled first" in chain().replace(" called", "\ncalled"), "the first")
    bench_model("groq", reason="x")
    wait(lambda: "benched until unbenched" in chain(), "the bench")
    bench_model(OPENAI, reason="x")
    wait(lambda: "No target of this chain may be called." in chain(), "the alarm")
    assert "without a live target" in text_of(browser, "#summary")


def test_events_are_listed_the_newest_first(serve: Any, browser: Any) -> None:
    """Benches and failed calls by default, all on demand, also those of before the page."""
    bench_model("first", reason="before")
    ask("groq")
    _open(browser, serve())

    def listed() -> list[str]:
        script = "return [...document.querySelectorAll('.event .key')].map(e => e.innerText)"
        return browser.execute_script(script)

    # The app was made after these two.
    bench_model("second", reason="after")
    bench_model("third", reason="after")
    wait(lambda: listed()[:2] == ["third", "second"], "the events")
    ask("groq")
    assert GROQ not in listed()
    browser.execute_script(
        "const s = document.getElementById('events-kind'); s.value = 'all';"
        "s.dispatchEvent(new Event('change'))"
    )
    wait(lambda: GROQ in listed(), "the failed attempt")


def test_a_reason_is_shown_as_text(serve: Any, browser: Any) -> None:
    """HTML and scripts in it are letters, and control characters are shown as what they are."""
    bench_model(GROQ, reason=REASON, by="<b>alice</b>")
    _open(browser, serve())
    bench_model(OPENAI, reason=REASON, by="<b>alice</b>")
    wait(lambda: OPENAI in text_of(browser, "#events-list"), "the event")

    whole = text_of(browser, "main")

    assert "<script>document.title=2</script> \\u001b[31m\\u202e" in whole
    assert "by <b>alice</b>" in whole
    assert "\x1b" not in whole
    assert "benched" in browser.title
    found = browser.execute_script(
        "return document.querySelectorAll('main img, main script').length"
    )
    assert 0 == found
    assert [] == _errors(browser)


# Steering, by mouse and by keyboard.


def test_bench_and_unbench_by_mouse(serve: Any, browser: Any) -> None:
    """Each is confirmed, the length is chosen and the reason is written."""
    ask()
    _open(browser, serve())

    _button(browser, f"Bench {GROQ}").click()
    browser.find_element("css selector", "input[value='3600']").click()
    browser.find_element("id", "bench-reason").send_keys("slow since 2")
    assert [] == list_benched()
    _button(browser, "Bench for 1 hour").click()
    wait(lambda: _benched(browser) == [GROQ], "the bench")

    [bench] = list_benched()
    assert ("slow since 2", True) == (bench.reason, bench.manual)
    assert 3590 < (bench.remaining or 0) <= 3600

    _button(browser, f"Unbench {GROQ}").click()
    assert [GROQ] == [each.model for each in list_benched()]
    _button(browser, "Unbench now").click()
    wait(lambda: _benched(browser) == [], "the end of the bench")
    assert [] == list_benched()
    assert [] == _errors(browser)


def test_cancel_changes_nothing(serve: Any, browser: Any) -> None:
    """Escape and the button both leave the dialog without a bench."""
    from selenium.webdriver.common.keys import Keys

    ask()
    _open(browser, serve())
    for leave in ("button", "escape"):
        _button(browser, f"Bench {GROQ}").click()
        if leave == "button":
            _button(browser, "Cancel").click()
        else:
            browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        wait(lambda: not text_of(browser, "#bench-dialog"), "the dialog is closed")

    assert [] == list_benched()


def _focused(driver: Any) -> str:
    return driver.execute_script(
        "const e = document.activeElement; return e.getAttribute('aria-label') || e.id || e.innerText"
    )


def test_bench_and_unbench_by_keyboard_alone(serve: Any, browser: Any) -> None:
    """Tab, arrows, Enter and the space bar are enough, and focus is always seen."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    ask()
    _open(browser, serve())

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(browser).send_keys(key).perform()

    def tab_to(label: str) -> None:
        for _ in range(60):
            if _focused(browser) == label:
                break
            press(Keys.TAB)
        assert label == _focused(browser)
        outline = browser.execute_script(
            "return getComputedStyle(document.activeElement).outlineStyle"
        )
        assert outline != "none"

    tab_to(f"Bench {OPENAI}")
    press(Keys.ENTER)
    wait(lambda: text_of(browser, "#bench-dialog"), "the dialog")
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    press(Keys.TAB)
    assert "bench-reason" == _focused(browser)
    press("bill", Keys.ENTER)
    wait(lambda: _benched(browser) == [OPENAI], "the bench")
    [bench] = list_benched()
    assert ("bill", None) == (bench.reason, bench.until)

    tab_to(f"Unbench {OPENAI}")
    press(Keys.SPACE)
    wait(lambda: text_of(browser, "#unbench-dialog"), "the dialog")
    assert "unbench-confirm" == _focused(browser)
    press(Keys.ENTER)
    wait(lambda: _benched(browser) == [], "the end of the bench")


def test_any_key_can_be_benched(serve: Any, browser: Any) -> None:
    """Also one that no call has used yet; what the service refuses is said in the dialog."""
    _open(browser, serve())
    _button(browser, "Bench a key").click()
    field = browser.find_element("id", "bench-key-input")
    field.send_keys("groq/")
    _button(browser, "Bench for 15 minutes").click()
    wait(lambda: "empty half" in text_of(browser, "#bench-wrong"), "the refusal")
    field.send_keys("new")
    _button(browser, "Bench for 15 minutes").click()

    wait(lambda: _benched(browser) == ["groq/new"], "the bench")
    assert 890 < (list_benched()[0].remaining or 0) <= 900


def test_the_last_live_target_is_not_benched_unawares(serve: Any, browser: Any) -> None:
    """The dialog says which chain would have nobody left."""
    ask()
    bench_model(GROQ, reason="x")
    _open(browser, serve())
    _button(browser, f"Bench {OPENAI}").click()

    assert ".ask" in text_of(browser, "#bench-last")


def test_a_page_that_is_read_only_has_no_buttons(serve: Any, browser: Any) -> None:
    """What would be refused is not offered."""
    bench_model(GROQ, reason="x")
    _open(browser, serve(read_only=True))

    assert [GROQ] == _benched(browser)
    script = (
        "return [...document.querySelectorAll('button')].filter(e => e.offsetParent !== null)"
        ".map(e => e.innerText)"
    )
    assert {"Forget token", "Pause"} == set(browser.execute_script(script))


# The token.


def test_the_token_is_asked_once(serve: Any, browser: Any) -> None:
    """A wrong one is asked again; the right one stays in this tab, and only there."""
    address = serve()
    browser.get(address)
    for given, then in (("wrong-wrong-wrong-", "This token was not accepted."), (TOKEN, "")):
        wait(lambda: text_of(browser, "#token-dialog"), "the question")
        browser.find_element("id", "token").send_keys(given)
        _button(browser, "Show targets").click()
        if then:
            wait(lambda then=then: text_of(browser, "#token-wrong") == then, "the refusal")
    wait(lambda: text_of(browser, "#connection-text") == "live", "the page is live")

    browser.refresh()
    wait(lambda: text_of(browser, "#connection-text") == "live", "the page is live again")

    stores = browser.execute_script(
        "return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    )
    assert [[TOKEN], [], ""] == stores


def test_the_token_of_the_address_is_taken_and_removed(serve: Any, browser: Any) -> None:
    """It is in no address that is shown, kept or sent afterwards."""
    address = serve()
    _open(browser, address)

    assert address == browser.current_url
    sent = [url for url, _ in _requests(browser)]
    assert not [url for url in sent if TOKEN in url.partition("#")[0]]
    _button(browser, "Forget token").click()
    wait(lambda: text_of(browser, "#token-dialog"), "the question")
    assert [] == browser.execute_script("return Object.values(sessionStorage)")


def test_without_a_token_no_token_is_asked(serve: Any, browser: Any) -> None:
    """An application may know its users otherwise; then the page just works."""
    browser.get(serve(authorize=lambda request, action: "carol"))
    wait(lambda: text_of(browser, "#connection-text") == "live", "the page is live")

    assert "" == text_of(browser, "#token-dialog")


# Where it works.


def _requests(driver: Any) -> list[tuple[str, dict[str, str]]]:
    """Return the addresses and headers of what the page has asked for."""
    found: list[tuple[str, dict[str, str]]] = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            request = message["params"]["request"]
            found.append((request["url"], request["headers"]))
    return found


def test_no_other_host_is_asked(serve: Any, browser: Any) -> None:
    """Everything comes from where the page comes from, and the token goes as a header."""
    address = serve()
    _open(browser, address)
    bench_model(GROQ, reason="x")
    wait(lambda: GROQ in text_of(browser, "#events-list"), "the event")

    requests = [each for each in _requests(browser) if not each[0].startswith("data:")]
    data = [headers for url, headers in requests if "/api/" in url]

    assert requests
    assert [] == [url for url, _ in requests if not url.startswith(address)]
    assert any("/api/events" in url for url, _ in requests)
    assert all(f"Bearer {TOKEN}" == headers.get("Authorization") for headers in data)
    assert [] == _errors(browser)


@pytest.mark.parametrize("strips", [True, False])
def test_it_works_under_a_root_path(serve: Any, browser: Any, strips: bool) -> None:
    """A proxy puts the application below a path of its own."""

    def proxied(inner: Any) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                assert scope["path"].startswith("/proxy/")
                path = scope["path"].removeprefix("/proxy") if strips else scope["path"]
                scope = {**scope, "root_path": "/proxy", "path": path}
            await inner(scope, receive, send)

        return app

    address = serve(wrap=proxied).replace("/llm/", "/proxy/llm/")
    ask()
    _open(browser, address)
    _button(browser, f"Bench {GROQ}").click()
    _button(browser, "Bench for 15 minutes").click()

    wait(lambda: _benched(browser) == [GROQ], "the bench")
    assert [] == _errors(browser)


def _fill() -> None:
    """Bring about every state that the page can show."""
    ask()
    ask("groq")
    bench_model(
        "azure@eu/gpt-5-with-a-very-long-name-of-its-deployment-2026",
        3600.0,
        reason="x " * 90,
        by="alice",
    )
    bench_model("mistral", reason="bill", by="<b>bob</b>")
    with pytest.raises(Exception), breaker("cohere/command"):  # noqa: B017  # of a provider
        raise http_error(401)
    with pytest.raises(Exception), breaker("xai/grok"):  # noqa: B017  # of a provider
        raise http_error(429, headers={"retry-after": "40"})


def _spend() -> None:
    """Let one budget run out, another be nearly spent, and a third have many keys."""
    configure(
        budgets=[
            Budget(calls=2, name="runs out"),
            Budget(usd=Decimal("0.0013"), of="openai"),
            Budget(tokens=5_000_000, name="<b>tenants</b>", of="key", per="day"),
        ],
    )
    spending = asking()
    for number in range(2):
        with spend_key(f"<i>tenant {number}</i>"):
            spending()
    with pytest.raises(BudgetExceededError):
        spending()


def test_budgets_say_what_is_spent_and_until_when(serve: Any, browser: Any) -> None:
    """The fullest first, amounts in the unit of the budget, keys as text; the event is listed."""
    _open(browser, address := serve())
    assert "" == text_of(browser, "#spend")

    _spend()
    _open(browser, address)
    wait(lambda: "BudgetExceeded" in text_of(browser, "#events-list"), "the event")
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#spend-list tr')].map("
        "row => [...row.cells].map(each => each.innerText.trim()))"
    )
    shares = browser.execute_script(
        "return [...document.querySelectorAll('#spend-list meter')].map(each => each.value)"
    )

    assert ["runs out", "2", "0", "2 calls", "100 %"] == rows[0][:5]
    assert ["<i>tenant 0</i> in <b>tenants</b>", "150", "0", "5,000,000 tokens"] == rows[1][:4]
    assert ["openai month usd", "$0", "$0", "$0.0013", "0 %"] == rows[3][:5]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d\d:\d\d:\d\d", rows[0][5])
    assert [1, 0.00003, 0.00003, 0] == shares
    assert "runs out: 2 of 2, resets " in text_of(browser, "#events-list")
    assert "4" == text_of(browser, "#spend-count")
    assert [] == _errors(browser)


@pytest.mark.parametrize(
    ("action", "said"),
    [("warn", "3 equal calls of search in a row, and the call went on"),
     ("raise", "3 equal calls of search in a row, so the call was refused")],
)  # fmt: skip
def test_a_tool_loop_is_listed(serve: Any, browser: Any, action: Any, said: str) -> None:
    """An agent that runs away is among what the page lists by default, in a sentence."""
    _open(browser, serve())
    function = {"name": "search", "arguments": "{}"}
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}

    @failover([GROQ], tool_loop=action)
    def step(target: Target, messages: list[Any]) -> str:
        return target.key

    with suppress(ToolLoopError):
        step([call] * 3)

    wait(lambda: said in text_of(browser, "#events-list"), "the event")
    assert f"ToolLoopDetected\n{GROQ}" in text_of(browser, "#events-list")
    assert [] == _errors(browser)


def test_keys_that_are_not_shown_are_counted(
    serve: Any, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says how many keys there are, and follows which of them are the fullest."""
    monkeypatch.setattr(_views, "MOST_KEYS", 1)
    configure(budgets=[Budget(calls=9, name="tenants", of="key")])
    spending = asking()
    for key in ("a", "a", "b"):
        with spend_key(key):
            spending()
    _open(browser, serve())

    assert "Of 2 keys of tenants the 1 that used most are shown." in text_of(browser, "#spend")
    assert text_of(browser, "#spend-list").startswith("a in tenants")

    for _ in range(2):
        with spend_key("b"):
            spending()

    wait(lambda: text_of(browser, "#spend-list").startswith("b in tenants"), "the fuller key")


def test_what_processes_share_is_seen(serve: Any, browser: Any, tmp_path: Path) -> None:
    """The page names the store and how many share it; a bench of another process has its source."""
    url = f"sqlite://{tmp_path}/state.db"
    configure(state=url, state_options={"poll": 0.1}, budgets=[Budget(calls=9, name="nine")])
    asking()()
    _open(browser, serve())
    wait(lambda: f"Shared through {url} by 1 process." == text_of(browser, "#store"), "the store")
    assert "of all processes that share the store." in text_of(browser, "#spend")
    assert text_of(browser, "#spend-list").startswith("nine")
    assert "this process" in text_of(browser, "#targets-title")

    with peer(url, "web:7") as other:
        other.bench("groq", 600, reason="bill", by="bob")
        wait(lambda: ", from web:7" in text_of(browser, "#benched-list"), "the bench", seconds=3.0)
        assert "by bob" in text_of(browser, "#benched-list")
        _button(browser, "Unbench groq").click()
        _button(browser, "Unbench now").click()
        wait(lambda: not _benched(browser), "its end", seconds=3.0)
        wait(lambda: other.state_of("groq") == "closed", "the same for the other", seconds=3.0)
    assert [] == _errors(browser)


def test_a_store_that_cannot_be_used_is_seen(serve: Any, browser: Any) -> None:
    """Since when, why, and as of when the benches of others are; and when it is back."""
    from axe_core_python.selenium import Axe

    server = Server()
    try:
        configure(state=server.url)
        _open(browser, serve())
        wait(lambda: "Shared through" in text_of(browser, "#store"), "the store")
        assert [] == _violations(Axe(), browser)

        server.kill()
        bench_model(GROQ, 600)
        wait(lambda: "cannot be used since" in text_of(browser, "#store"), "the outage")
        assert "Benches of other processes are as of " in text_of(browser, "#store")
        assert "1 change of this process waits to be sent." in text_of(browser, "#store")
        assert [] == _violations(Axe(), browser)

        server.start()
        wait(lambda: "Shared through" in text_of(browser, "#store"), "its end")
        assert "waits to be sent" not in text_of(browser, "#store")
        assert [] == _errors(browser)
    finally:
        server.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_no_violation(serve: Any, width: int, dark: bool) -> None:
    """No rule of axe-core is broken, on a phone and on a desk, by day and by night."""
    from axe_core_python.selenium import Axe

    with chromium(width=width, dark=dark) as browser:
        browser.get(address := serve())
        wait(lambda: text_of(browser, "#token-dialog"), "the question")
        assert [] == _violations(Axe(), browser)
        _fill()
        _spend()
        _open(browser, address)
        wait(lambda: len(_benched(browser)) == 4, "the benches")
        bench_model(OPENAI, 60.0, reason="now")
        wait(lambda: OPENAI in text_of(browser, "#events-list"), "the event")
        assert [] == _violations(Axe(), browser)
        _button(browser, f"Bench {GROQ}").click()
        wait(lambda: text_of(browser, "#bench-dialog"), "the dialog")
        assert [] == _violations(Axe(), browser)
        _button(browser, "Cancel").click()
        _button(browser, "Unbench mistral").click()
        assert [] == _violations(Axe(), browser)
        sizes = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1] == width
        ground = browser.execute_script(
            "return getComputedStyle(document.documentElement).backgroundColor"
        )
        brightness = sum(int(each) for each in ground.strip("rgb()").split(",")[:3])
        assert (brightness < 200) == dark


def _violations(axe: Any, browser: Any) -> list[tuple[str, list[str]]]:
    found = axe.run(browser)["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found]


def test_it_stays_smooth_with_200_targets_and_100_events_a_second(serve: Any, browser: Any) -> None:
    """No task of the page takes longer than 200 ms, and clicks are answered."""
    targets = [f"provider{number % 20}/model-{number}" for number in range(200)]
    for key in targets:
        breaker(key).record(None, 0.1)
    _open(browser, serve())
    wait(lambda: text_of(browser, "#targets-count") >= "220", "all targets")
    browser.execute_script(
        "const s = document.getElementById('events-kind'); s.value = 'all';"
        "s.dispatchEvent(new Event('change'))"
    )
    browser.execute_script("window.longTasks.length = 0")
    ended = threading.Event()
    sent: list[int] = []

    def flood() -> None:
        number, began = 0, time.monotonic()
        while not ended.wait(0.01):
            while number < 100 * (time.monotonic() - began):
                bench_model(targets[number % 40], 60.0, reason=str(number))
                number += 1
        sent.append(number)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        until = time.monotonic() + 8.0
        while time.monotonic() < until:
            began = time.monotonic()
            browser.execute_script("document.getElementById('filter').focus()")
            assert time.monotonic() - began < 2.0
            time.sleep(0.25)
    finally:
        ended.set()
        thread.join()

    tasks = browser.execute_script("return window.longTasks")
    assert sent[0] >= 750
    assert [] == [each for each in tasks if each > 200]
    last = f"{sent[0] - 1}, by hand"
    wait(lambda: last in text_of(browser, "#events-list"), "the last event")


def test_a_page_without_its_server_says_so(serve: Any, browser: Any) -> None:
    """What is old never looks new."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        app = mounted(admin.app(authorize=admin.token(TOKEN)))
        port = stack.enter_context(served(app))
        bench_model(GROQ, reason="x")
        _open(browser, f"http://{HOST}:{port}/llm/")
        # The stream of events would hold up the end of the server.
        browser.execute_script("stopStream()")
    wait(lambda: "stale since" in text_of(browser, "#connection-text"), "the warning", 15.0)

    assert "may be old" in text_of(browser, "#alert")
    assert [GROQ] == _benched(browser)
