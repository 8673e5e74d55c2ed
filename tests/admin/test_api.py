"""The API: what it shows, how it benches and unbenches, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    BenchedModel,
    Target,
    TargetBenched,
    TargetHealth,
    TargetUnbenched,
    admin,
    bench_model,
    breaker,
    chains,
    config,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    unbench_model,
)
from resilient_llm.probes import HealthProbe
from resilient_llm.testing import capture_events, http_error, isolated
from tests.support.asgi import Answer, Client

GROQ, OPENAI = "groq/llama", "openai/gpt"
BENCH_FIELDS = {each.name for each in fields(BenchedModel)}
HEALTH_FIELDS = {each.name for each in fields(TargetHealth)}


def _failing(key: str) -> None:
    with pytest.raises(Exception), breaker(key):  # noqa: B017  # any error of a provider
        raise http_error(401)


def _problem(answer: Answer) -> str:
    """Return the detail of a problem, whose form is checked."""
    assert "application/problem+json" == answer.headers["content-type"]
    problem = answer.json
    assert {"type", "title", "status", "detail"} == problem.keys()
    assert answer.status == problem["status"]
    return problem["detail"]


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return moment


# Reading.


def test_benches_are_objects_with_the_fields_of_a_benched_model(client: Client) -> None:
    """The list is what `list_benched` gives, moments as RFC 3339."""
    bench_model(GROQ, 600.0, reason="maintenance", by="alice")
    bench_model("openai")
    [first, second] = list_benched()

    rows = client.get("/api/benches").json

    assert [BENCH_FIELDS] * 2 == [row.keys() for row in rows]
    assert [GROQ, "openai"] == [row["model"] for row in rows]
    assert ("maintenance", "alice", True, None) == tuple(
        rows[0][name] for name in ("reason", "by", "manual", "kind")
    )
    assert abs(_moment(rows[0]["until"]) - (first.until or datetime.now(UTC))) < timedelta(
        seconds=1
    )
    assert abs(_moment(rows[0]["since"]) - first.since) < timedelta(seconds=1)
    assert 590 < rows[0]["remaining"] <= 600
    assert (None, None, second.reason) == tuple(
        rows[1][name] for name in ("until", "remaining", "reason")
    )


def test_a_list_is_empty_where_nothing_is(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has called nothing and has no chains has empty lists, and is healthy."""
    _forget_chains(monkeypatch)

    for path in ("benches", "targets", "chains"):
        assert [] == client.get(f"/api/{path}").json
    assert {"status": "healthy", "targets": []} == client.get("/api/health").json


def test_targets_of_chains_are_shown_before_they_are_used(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call would use is what an operator may want to bench."""
    _forget_chains(monkeypatch)
    policy = failover([GROQ])

    assert ["groq", GROQ] == [each["key"] for each in client.get("/api/targets").json]
    del policy


def test_targets_are_objects_with_the_fields_of_a_target_health(client: Client) -> None:
    """Every key is there with its health, errors and benches as objects."""
    _failing(GROQ)
    expected = health()

    rows = client.get("/api/targets").json

    assert {*expected} <= {row["key"] for row in rows}
    assert all({*HEALTH_FIELDS, "key", "samples"} == row.keys() for row in rows)
    row = next(row for row in rows if row["key"] == "groq")
    assert {"kind": "auth_dead", "reason": "invalid_credentials"} == row["last_error"]
    assert BENCH_FIELDS == row["benched"].keys()
    assert ("down", 0, None) == (row["status"], row["consecutive_failures"] - 1, row["latency"])


def test_a_key_that_is_probed_has_the_last_result(client: Client) -> None:
    """Well, not well or broken; a key without a health probe has no such field."""
    probes = {GROQ: lambda: False, OPENAI: lambda: True, "mistral": lambda: "text"}
    asyncio.run(HealthProbe(probes).tick())

    for path in ("/api/targets", "/api/health"):
        found = client.get(path).json
        rows = {row["key"]: row for row in (found if isinstance(found, list) else found["targets"])}
        assert {GROQ, OPENAI, "mistral"} == {key for key, row in rows.items() if "probe" in row}
        for key, ok, reason in (
            (GROQ, False, "probe"),
            (OPENAI, True, ""),
            ("mistral", None, "broken"),
        ):
            probe = rows[key]["probe"]
            assert {"ok": ok, "reason": reason} == {name: probe[name] for name in ("ok", "reason")}
            assert 0.0 <= probe["seconds"] < 10.0
            assert datetime.fromisoformat(probe["at"]) <= datetime.now(UTC)
    with isolated():
        assert [] == [row for row in client.get("/api/targets").json if "probe" in row]


def test_health_shows_what_is_expected(client: Client) -> None:
    """A key that nobody has used is shown if it is expected, and the parameter may come again."""
    answer = client.get(f"/api/health?expected={GROQ}&expected=openai%2Fgpt")

    found = answer.json
    assert {"status", "targets"} == found.keys()
    assert {GROQ, OPENAI, "groq", "openai"} == {row["key"] for row in found["targets"]}
    assert all({*HEALTH_FIELDS, "key"} == row.keys() for row in found["targets"])


def test_no_read_adds_a_key(serve: Any) -> None:
    """On a read-only page least of all: whoever may read could push real keys out."""
    client = serve(read_only=True)

    @failover([GROQ, Target("tenant/in-a-chain")])
    def ask(target: Target) -> str:
        return target.key

    before = {*health()}

    asked = client.get("/api/health?" + "&".join(f"expected=tenant{n}/m" for n in range(100)))

    assert 200 <= len(asked.json["targets"])
    assert not [row for row in client.get("/api/targets").json if row["key"] == "tenant0"]
    assert any(each["functions"] for each in client.get("/api/chains").json)
    assert before == {*health()}
    assert GROQ == ask()


def test_health_is_degraded_when_some_key_is_not_healthy(client: Client) -> None:
    """One benched key is enough, and the status stays 200."""

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    bench_model(GROQ)

    answer = client.get("/api/health")

    assert (200, "degraded") == (answer.status, answer.json["status"])
    assert OPENAI == ask()


def test_health_is_down_when_no_chain_has_a_live_target(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 503 then, also where the targets are blocked by their providers."""
    _forget_chains(monkeypatch)

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    bench_model("groq")
    bench_model(OPENAI)

    down = client.get("/api/health")
    unbench_model("groq")
    back = client.get("/api/health")

    assert (503, "down") == (down.status, down.json["status"])
    assert (200, "degraded") == (back.status, back.json["status"])
    assert GROQ == ask()


def test_health_is_never_down_without_chains(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that only guards blocks has no chain that could be without a target."""
    _forget_chains(monkeypatch)
    bench_model(GROQ)

    assert "degraded" == client.get("/api/health").json["status"]
    unbench_model(GROQ)
    assert "healthy" == client.get("/api/health").json["status"]


def _forget_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the policies of other tests, which live in their modules."""
    import weakref

    from resilient_llm._runtime import chains

    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())


def test_chains_are_living_policies_in_their_present_order(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain names its functions, and its targets by priority, with what keeps them from calls."""
    _forget_chains(monkeypatch)

    @failover([GROQ, Target(OPENAI, priority=0)])
    def ask(target: Target) -> str:
        return target.key

    bench_model("openai", reason="bill")

    [chain] = client.get("/api/chains").json

    assert [f"{__name__}.{ask.__qualname__}"] == chain["functions"]
    assert [OPENAI, GROQ] == [each["key"] for each in chain["targets"]]
    assert [False, True] == [each["live"] for each in chain["targets"]]
    assert "openai" == chain["targets"][0]["benched"]["model"]
    assert (None, "closed") == tuple(chain["targets"][1][name] for name in ("benched", "state"))


def test_a_chain_shows_how_it_was_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names stay names beside their targets, under the profile of the process."""
    _forget_chains(monkeypatch)
    fast = [GROQ, OPENAI]
    chains.define({"fast": fast})
    chains.define_profile("cheap", chains={"fast": GROQ})
    route = chains.route(chains.rule(OPENAI, has_tools=True), otherwise="@fast")

    @failover(["@fast", Target("anthropic/claude", priority=2), route])
    def ask(target: Target) -> str:
        return target.key

    [before] = client.get("/api/chains").json
    configure(profile="cheap")
    [under_profile] = client.get("/api/chains").json

    assert ["@fast", "anthropic/claude", "a route"] == before["written"]
    assert before["written"] == under_profile["written"]
    assert (None, "cheap") == (before["profile"], under_profile["profile"])
    assert [*fast, "anthropic/claude"] == [each["key"] for each in before["targets"]]
    assert [GROQ, OPENAI, "anthropic/claude"] == sorted(
        (each["key"] for each in under_profile["targets"]), key=[*fast, "anthropic/claude"].index
    )
    del ask


def test_config_without_a_file(client: Client) -> None:
    """A process without a file has nothing of one, and its profile."""
    chains.define_profile("cheap")
    without = client.get("/api/config").json
    configure(profile="cheap")

    assert {
        "source": None,
        "loaded_at": None,
        "chains": [],
        "profiles": [],
        "shadowed": [],
        "profile": None,
        "problems": [],
        "failed_at": None,
    } == without
    assert {**without, "profile": "cheap"} == client.get("/api/config").json


def test_config_with_a_file(client: Client, tmp_path: Path) -> None:
    """The file is shown by name, and the problems of a reload that failed until one succeeds."""
    path = tmp_path / "config.toml"
    good = "[settings]\nprofile = 'cheap'\n[chains]\nfast = 'a/b'\nslow = 'c/d'\n[profiles.cheap]\n"
    path.write_text(good)
    chains.define({"slow": "e/f"})
    loaded = config.load(path)

    before = client.get("/api/config").json
    path.write_text(good + "[chain]\n")
    with pytest.raises(config.InvalidConfigError) as failed:
        config.reload()
    after = client.get("/api/config").json
    path.write_text(good)
    config.reload()
    again = client.get("/api/config").json

    assert {
        "source": str(path),
        "chains": ["fast", "slow"],
        "profiles": ["cheap"],
        "shadowed": ["chains.slow"],
        "profile": "cheap",
        "problems": [],
        "failed_at": None,
    } == {name: each for name, each in before.items() if name != "loaded_at"}
    assert loaded.loaded_at == datetime.fromisoformat(before["loaded_at"])
    assert [str(each) for each in failed.value.problems] == after["problems"]
    assert 1 == len(after["problems"])
    assert datetime.fromisoformat(after["failed_at"]) >= loaded.loaded_at
    assert ([], None) == (again["problems"], again["failed_at"])


def test_config_shows_no_value_of_the_environment(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem with a variable shows the variable, and names are all that is shown of a file."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("LLM_SECRET", "a-value-that-nobody-may-see")
    path.write_text("[chains]\nfast = 'groq/${LLM_SECRET}'\n")
    config.load(path)
    path.write_text("[settings]\ntimeout = '${LLM_SECRET}'\n[chains]\nfast = 'a/b'\n")
    with pytest.raises(config.InvalidConfigError):
        config.reload()

    answer = client.get("/api/config")

    assert "${LLM_SECRET}" in answer.json["problems"][0]
    assert "nobody-may-see" not in str(answer.json)


def test_a_policy_that_is_gone_has_no_chain(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of one policy are one chain, and what nobody has any more is none."""
    _forget_chains(monkeypatch)
    policy = failover([GROQ])
    copies = [policy.using(attempts=2) for _ in range(3)]

    assert [[]] == [each["functions"] for each in client.get("/api/chains").json]
    del policy, copies
    assert [] == client.get("/api/chains").json


def test_head_is_get_without_a_body(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer may ask with HEAD."""
    _forget_chains(monkeypatch)
    for path in ("/api/health", "/api/benches", "/api/events", "/"):
        answer = client.send("HEAD", path)

        assert (200, b"") == (answer.status, answer.content)


# Benching.


def test_a_bench_answers_201_and_the_bench(client: Client) -> None:
    """It is made as `bench_model` makes it, and the event says so."""
    with capture_events(TargetBenched) as events:
        answer = client.bench(model="Groq/llama", seconds=900, reason="bad answers")

    assert 201 == answer.status
    assert BENCH_FIELDS == answer.json.keys()
    assert (GROQ, "bad answers", True, None) == tuple(
        answer.json[name] for name in ("model", "reason", "manual", "kind")
    )
    assert 890 < answer.json["remaining"] <= 900
    assert is_benched(GROQ)
    assert [(GROQ, "bad answers")] == [(each.target, each.reason) for each in events]


def test_a_bench_may_name_its_end_or_none(client: Client) -> None:
    """`until` is a moment with its offset; with neither it lasts until somebody unbenches."""
    end = datetime(2099, 1, 2, 3, 4, 5, 600000, UTC)
    for text in ("2099-01-02T03:04:05.6Z", "2099-01-02t05:04:05.6000000009+02:00"):
        answer = client.bench(model=GROQ, until=text)
        assert 201 == answer.status, answer.content
        assert abs(_moment(answer.json["until"]) - end) < timedelta(seconds=1)

    for more in ({}, {"seconds": None}, {"until": None, "seconds": None}):
        answer = client.bench(model=GROQ, **more)
        assert (201, None) == (answer.status, answer.json["until"])


def test_a_bench_of_no_time_is_answered_too(client: Client) -> None:
    """It is over before it could be listed, and the answer has the same form."""
    answer = client.bench(model=GROQ, seconds=0, reason="x")

    assert (201, BENCH_FIELDS) == (answer.status, {*answer.json})
    assert (GROQ, "x", 0.0) == tuple(answer.json[name] for name in ("model", "reason", "remaining"))
    assert not is_benched(GROQ)


def test_a_bench_replaces_the_one_before(client: Client) -> None:
    """Benching again is how a bench is changed."""
    client.bench(model=GROQ, reason="one")
    client.bench(model=GROQ, seconds=60, reason="two")

    assert ["two"] == [each.reason for each in list_benched()]


def test_unbench_answers_204_once(client: Client) -> None:
    """The second time there is nothing to end."""
    bench_model(GROQ)

    with capture_events(TargetUnbenched) as events:
        first, second = client.unbench(GROQ), client.unbench(GROQ)

    assert (204, b"") == (first.status, first.content)
    assert 404 == second.status
    assert "'groq/llama' is not benched" == _problem(second)
    assert ["manual"] == [each.reason for each in events]


def test_an_automatic_bench_can_be_ended(client: Client) -> None:
    """An operator who has mended the key need not wait."""
    _failing(GROQ)
    [bench] = list_benched()

    assert 204 == client.unbench(bench.model).status
    assert [] == list_benched()


def test_keys_are_taken_as_they_are(client: Client) -> None:
    """What a proxy would rewrite in a path is data here."""
    for key in (
        "groq/..",
        "groq/a%2Fb",
        "groq/a/../b",
        "groq/ä€😀",
        "groq/a?b&c=d#e",
        "groq@x/a@b",
    ):
        assert 201 == client.bench(model=key).status
        assert [key] == [each.model for each in list_benched()]
        assert [key] == [each["model"] for each in client.get("/api/benches").json]
        assert 204 == client.unbench(key).status


# Who.


@pytest.mark.parametrize("answer", ["alice", "x" * 300, True])
def test_what_authorize_says_is_who_did_it(serve: Any, answer: Any) -> None:
    """A text is written to bench and event, cut at 200 characters; True names nobody."""
    client = serve(authorize=lambda request, action: answer)
    wanted = "" if answer is True else answer[:200]

    with capture_events(TargetBenched, TargetUnbenched) as events:
        benched = client.bench(model=GROQ)
        client.unbench(GROQ)

    assert wanted == benched.json["by"]
    assert [wanted, wanted] == [each.by for each in events]


def test_authorize_is_asked_for_every_path_of_the_api(serve: Any) -> None:
    """It sees the request and whether it would write, also where there is no such path."""
    asked: list[tuple[str, str, str]] = []

    def authorize(request: Any, action: str) -> bool:
        asked.append((request.method, request.url.path, action))
        return False

    client = serve(authorize=authorize)
    wanted = [
        ("GET", "/api/health", "read"),
        ("GET", "/api/targets", "read"),
        ("GET", "/api/benches", "read"),
        ("GET", "/api/chains", "read"),
        ("GET", "/api/config", "read"),
        ("GET", "/api/events", "read"),
        ("GET", "/api/openapi.json", "read"),
        ("GET", "/api/nothing", "read"),
        ("GET", "/api/", "read"),
        ("HEAD", "/api/health", "read"),
        ("OPTIONS", "/api/benches", "read"),
        ("POST", "/api/benches", "write"),
        ("DELETE", "/api/benches", "write"),
        ("PUT", "/api/benches", "write"),
        ("PATCH", "/api/nothing", "write"),
    ]
    for method, path, _ in wanted:
        assert 403 == client.send(method, path).status
    client.get("/")

    assert [(method, f"{client.root}{path}", action) for method, path, action in wanted] == asked


@pytest.mark.parametrize(
    "answer",
    [False, None, "", " ", 1, 0, object(), [True], b"alice"],
    ids=["false", "none", "empty", "blank", "one", "zero", "object", "list", "bytes"],
)
@pytest.mark.parametrize("is_async", [True, False])
def test_everything_else_is_403(serve: Any, answer: Any, is_async: bool) -> None:
    """Only True and a text allow: a forgotten return does not."""

    async def later(request: Any, action: str) -> Any:
        return answer

    client = serve(authorize=later if is_async else lambda request, action: answer)

    assert 403 == client.get("/api/health").status
    assert "this request may not write" == _problem(client.bench(model=GROQ))
    assert [] == list_benched()


def test_reading_and_writing_can_be_allowed_apart(serve: Any) -> None:
    """The second argument says which of the two it is."""

    async def authorize(request: Any, action: str) -> Any:
        return action == "read"

    client = serve(authorize=authorize)

    assert (200, 403) == (client.get("/api/benches").status, client.bench(model=GROQ).status)


def test_an_async_callable_object_is_awaited(serve: Any) -> None:
    """What gives an awaitable is awaited, whatever it is."""

    class Door:
        async def __call__(self, request: Any, action: str) -> Any:
            return "bob"

    def passes_on(request: Any, action: str) -> Any:
        return Door()(request, action)

    for authorize in (Door(), passes_on):
        assert "bob" == serve(authorize=authorize).bench(model=GROQ).json["by"]


@pytest.mark.parametrize("is_async", [True, False])
def test_an_error_of_authorize_is_500_and_nothing_happens(serve: Any, is_async: bool) -> None:
    """Its message, which may hold a secret, is not in the answer."""

    async def later(request: Any, action: str) -> Any:
        raise KeyError("sk-secret")

    def now(request: Any, action: str) -> Any:
        raise KeyError("sk-secret")

    client = serve(authorize=later if is_async else now)

    answer = client.bench(model=GROQ)

    assert 500 == answer.status
    assert "secret" not in _problem(answer)
    assert [] == list_benched()


def test_a_synchronous_authorize_does_not_hold_up_the_loop(serve: Any) -> None:
    """It runs in a thread, so that one which waits lets others be answered."""
    import threading

    entered, leave = threading.Event(), threading.Event()

    def authorize(request: Any, action: str) -> bool:
        if request.query_params.get("expected"):
            entered.set()
            assert leave.wait(10)
        return True

    client = serve(authorize=authorize)
    slow = threading.Thread(target=lambda: client.get("/api/health?expected=groq"))
    slow.start()
    try:
        assert entered.wait(10)
        assert 200 == client.get("/api/benches").status
    finally:
        leave.set()
        slow.join(10)


def test_read_only_refuses_every_write(serve: Any) -> None:
    """It reads as before, and its document has no write."""
    client = serve(read_only=True)
    bench_model(GROQ)

    assert 403 == client.bench(model=OPENAI).status
    assert 403 == client.unbench(GROQ).status
    assert [GROQ] == [each["model"] for each in client.get("/api/benches").json]
    assert {"get"} == client.get("/api/openapi.json").json["paths"]["/api/benches"].keys()
    assert "GET, HEAD" == client.send("PUT", "/api/benches").headers["allow"]


# What is wrong.


def _deep(levels: int) -> bytes:
    return b'{"model": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


BAD_JSON = [
    b"",
    b"{",
    b"model=groq",
    b'{"model": groq}',
    b"{'model': 'groq'}",
    b'{"model": "groq", "seconds": NaN}',
    b'{"model": "groq", "seconds": Infinity}',
    b'{"model": "groq", "model": "openai"}',
    b'{"model": "\xff"}',
    '{"model": "groq"}'.encode("utf-16"),
    b'{"model": "groq"}{}',
    b'{"model": "groq", "seconds": ' + b"9" * 5000 + b"}",
    _deep(21),
    b"[" * 16000,
]


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:24]))
def test_bad_json_is_400(client: Client, body: bytes) -> None:
    """What is not JSON in UTF-8, names a field twice or is too deep is refused as a whole."""
    answer = client.send("POST", "/api/benches", body, {"Content-Type": "application/json"})

    assert 400 == answer.status
    assert _problem(answer)
    assert [] == list_benched()


def test_20_levels_are_json(client: Client) -> None:
    """What is allowed by its depth is then refused for what it says; brackets in texts are none."""
    headers = {"Content-Type": "application/json"}

    assert 422 == client.send("POST", "/api/benches", _deep(20), headers).status
    assert 201 == client.bench(model=GROQ, reason="[" * 100 + '"\\').status


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "multipart/form-data",
        "application/json; charset=latin-1",
        "application/problem+json",
    ],
)
def test_another_content_type_is_415(client: Client, kind: str) -> None:
    """A form of another site can send these without being asked for permission."""
    answer = client.send("POST", "/api/benches", b'{"model": "groq"}', {"Content-Type": kind})

    assert 415 == answer.status
    assert _problem(answer)
    assert [] == list_benched()


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_may_name_its_encoding(client: Client, kind: str) -> None:
    """UTF-8 is what JSON is in, so saying so is fine."""
    assert (
        201
        == client.send("POST", "/api/benches", b'{"model": "groq"}', {"Content-Type": kind}).status
    )


def test_a_compressed_body_is_415(client: Client) -> None:
    """Nothing is unpacked: a small body could become a large one."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    assert 415 == client.send("POST", "/api/benches", b"x", headers).status


def test_a_body_over_16_kib_is_413(client: Client) -> None:
    """Told by its length, or by what comes in chunks without one; 16 KiB are read."""
    headers = {"Content-Type": "application/json"}
    room = 16 * 1024 - len(b'{"model":"groq"}')
    fits = b'{"model":' + b" " * room + b'"groq"}'
    chunked = b"".join(b"1000\r\n" + b" " * 4096 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"

    assert 201 == client.send("POST", "/api/benches", fits, headers).status
    assert 413 == client.send("POST", "/api/benches", fits + b" ", headers).status
    assert (
        413
        == client.send(
            "POST", "/api/benches", chunked, {**headers, "Transfer-Encoding": "chunked"}
        ).status
    )


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, "'model' is missing"),
    ({"model": None}, "not NoneType"),
    ({"model": ["groq"]}, "not list"),
    ({"model": ""}, "blank"),
    ({"model": " "}, "blank"),
    ({"model": "/"}, "empty half"),
    ({"model": "groq/"}, "empty half"),
    ({"model": "x" * 513}, "513 characters"),
    ({"model": "x" * 600}, "600 characters"),
    ({"model": "groq/\0"}, "control"),
    ({"model": "groq/a\nb"}, "control"),
    ({"model": "groq\n"}, "control"),
    ({"model": "groq/\x85"}, "control"),
    ({"model": "groq/\ud800"}, "surrogate"),
    ({"model": "groq", "seconds": -1}, "0 or more"),
    ({"model": "groq", "seconds": "60"}, "'60'"),
    ({"model": "groq", "seconds": True}, "True"),
    ({"model": "groq", "seconds": [1]}, "list"),
    ({"model": "groq", "until": "2001-01-01T00:00:00Z"}, "passed"),
    ({"model": "groq", "until": "2099-01-01T00:00:00"}, "RFC 3339"),
    ({"model": "groq", "until": "2099-01-01"}, "RFC 3339"),
    ({"model": "groq", "until": "2099-13-01T00:00:00Z"}, "RFC 3339"),
    ({"model": "groq", "until": 4070908800}, "RFC 3339"),
    ({"model": "groq", "until": "tomorrow"}, "RFC 3339"),
    ({"model": "groq", "seconds": 1, "until": "2099-01-01T00:00:00Z"}, "exclude"),
    ({"model": "groq", "reason": None}, "no text"),
    ({"model": "groq", "reason": 5}, "no text"),
    ({"model": "groq", "reason": "x" * 201}, "201 characters"),
    ({"model": "groq", "reason": "\udfff"}, "surrogate"),
    ({"model": "groq", "second": 5}, "did you mean 'seconds'"),
    ({"model": "groq", "by": "mallory"}, "unknown field 'by'"),
    ({"model": "groq", "x" * 600: 5}, "unknown field"),
]


@pytest.mark.parametrize(("fields_", "what"), WRONG_FIELDS, ids=lambda each: repr(each)[:40])
def test_a_wrong_field_is_422(client: Client, fields_: dict[str, Any], what: str) -> None:
    """The problem says which field, and what is allowed; nothing is benched."""
    answer = client.bench(**fields_)

    assert 422 == answer.status
    assert what in _problem(answer)
    assert len(answer.content) < 500
    assert [] == list_benched()


@pytest.mark.parametrize("body", [b"[]", b'"groq"', b"null", b"7"])
def test_json_that_is_no_object_is_422(client: Client, body: bytes) -> None:
    """It is JSON, and has no fields."""
    assert (
        422
        == client.send("POST", "/api/benches", body, {"Content-Type": "application/json"}).status
    )


WRONG_QUERIES = [
    ("DELETE", "/api/benches"),
    ("DELETE", "/api/benches?model="),
    ("DELETE", "/api/benches?model=groq&model=openai"),
    ("DELETE", "/api/benches?modle=groq"),
    ("DELETE", "/api/benches?model=%00"),
    ("DELETE", "/api/benches?model=groq%0A"),
    ("DELETE", "/api/benches?model=groq%0d%0aX-Injected:%201"),
    ("DELETE", "/api/benches?model=%FF"),
    ("DELETE", f"/api/benches?model={'x' * 600}"),
    ("GET", "/api/health?expected="),
    ("GET", "/api/health?expcted=groq"),
    ("GET", "/api/health?expected=groq&expected=%7f"),
    ("GET", f"/api/health?expected={'x' * 600}"),
    ("GET", "/api/targets?x=1"),
    ("GET", "/api/benches?x"),
    ("GET", "/api/chains?x=1"),
    ("GET", "/api/config?x=1"),
    ("GET", "/api/events?x=1"),
    ("POST", "/api/benches?model=groq"),
]


@pytest.mark.parametrize(("method", "path"), WRONG_QUERIES, ids=lambda each: each[:40])
def test_a_wrong_parameter_is_422(client: Client, method: str, path: str) -> None:
    """Unknown, missing, doubled and impossible parameters are refused, not passed over."""
    answer = client.send(method, path)

    assert 422 == answer.status
    assert _problem(answer)
    assert "x-injected" not in answer.headers


def test_there_is_no_such_path(client: Client) -> None:
    """What the API does not have is 404, also with dots and escapes in it."""
    for path in (
        "/api/",
        "/api/spending",
        "/api/benches/",
        "/api/benches/groq%2Fllama",
        "/api/../api/x",
    ):
        answer = client.get(path)

        assert 404 == answer.status, path
        assert _problem(answer)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/health", "GET, HEAD"),
        ("PUT", "/api/benches", "GET, POST, DELETE, HEAD"),
        ("PATCH", "/api/benches", "GET, POST, DELETE, HEAD"),
        ("TRACE", "/api/benches", "GET, POST, DELETE, HEAD"),
        ("OPTIONS", "/api/benches", "GET, POST, DELETE, HEAD"),
        ("DELETE", "/api/events", "GET, HEAD"),
    ],
)
def test_another_method_is_405(client: Client, method: str, path: str, allowed: str) -> None:
    """The answer says which there are."""
    answer = client.send(method, path)

    assert (405, allowed) == (answer.status, answer.headers["allow"])
    assert _problem(answer)


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_headers_that_override_the_method_are_ignored(client: Client, name: str) -> None:
    """A GET stays one."""
    bench_model(GROQ)

    assert 200 == client.get("/api/benches", {name: "DELETE"}).status
    answer = client.send("POST", "/api/benches", {"model": OPENAI}, {name: "DELETE"})

    assert 201 == answer.status
    assert [GROQ, OPENAI] == [each.model for each in list_benched()]


def test_what_is_wrong_is_a_problem_of_its_status(client: Client) -> None:
    """A problem has the fields of RFC 9457, and the title of its status."""
    answer = client.get("/api/nothing")

    assert {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no such path: see api/openapi.json",
    } == answer.json


def test_admin_app_ends_with_its_last_reference(serve: Any) -> None:
    """An app that nobody has any more listens to nothing and has no thread."""
    import gc
    import weakref

    app: Any = admin.app(authorize=admin.token("0123456789abcdef"))
    background = app._watch._background
    gone = weakref.ref(app)

    del app
    gc.collect()

    assert gone() is None
    assert background.is_over


def test_a_failing_authorize_is_logged_once(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns which class of error it was, and nothing of what it said."""

    def authorize(request: Any, action: str) -> Any:
        raise KeyError("sk-secret")

    client = serve(authorize=authorize)
    configure(logging=True)
    for _ in range(3):
        client.get("/api/benches")

    assert [
        "authorize of the admin page failed with KeyError; the request was answered by 500"
    ] == [each.getMessage() for each in caplog.records]
