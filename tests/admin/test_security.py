"""Nobody gets in: tokens, hosts, writes of other sites, odd keys, headers, HTML in a reason."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from resilient_llm import admin, bench_model, list_benched
from tests.support.asgi import HOST, PATIENCE, TOKEN, Client

PATHS = [
    "health",
    "targets",
    "benches",
    "chains",
    "config",
    "events",
    "openapi.json",
    "nothing",
    "",
]
WRONG = [
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN.upper()}",
    f"Bearer x{TOKEN}",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN} {TOKEN}",
    f"Bearer\xa0{TOKEN}",
    "Bearer \xff\xfe",
    "Bearer " + "x" * 4000,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("given", WRONG[:4])
def test_no_path_of_the_api_answers_without_the_token(
    client: Client, path: str, given: str
) -> None:
    """All of them say 401, and none whether it is there."""
    answer = client.get(f"/api/{path}", {"Authorization": given})

    assert (401, "Bearer") == (answer.status, answer.headers["www-authenticate"])
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize("given", WRONG, ids=lambda given: given[:24])
def test_a_missing_or_wrong_token_is_401(client: Client, given: str) -> None:
    """Nothing is benched or unbenched, and the answer repeats nothing."""
    bench_model("groq")
    before = list_benched()

    for method, body in (("GET", None), ("POST", {"model": "openai"}), ("DELETE", None)):
        query = {"model": "groq"} if method == "DELETE" else {}
        answer = client.send(method, "/api/benches", body, {"Authorization": given}, **query)

        assert (401, "Bearer") == (answer.status, answer.headers["www-authenticate"])
        assert TOKEN.encode() not in answer.content
    assert [each.model for each in before] == [each.model for each in list_benched()]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_right_token_is_let_in(client: Client, scheme: str) -> None:
    """The name of the scheme has no case."""
    assert 200 == client.get("/api/benches", {"Authorization": f"{scheme} {TOKEN}"}).status


def test_the_comparison_takes_constant_time(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """It is left to `hmac.compare_digest`, for every token that comes."""
    import hmac

    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    client.get("/api/benches")
    client.get("/api/benches", {"Authorization": "Basic x"})
    client.get("/api/benches", {"Authorization": ""})

    token = TOKEN.encode()
    assert [(token, token), (b"x", token), (b"", token)] == compared


def test_a_token_in_the_address_opens_nothing(client: Client) -> None:
    """It would be kept in logs, so only the header counts."""
    client.token = None

    for query in ({"token": TOKEN}, {"access_token": TOKEN}):
        assert 401 == client.get("/api/benches", None, **query).status
    assert 401 == client.get("/api/benches", {"Cookie": f"token={TOKEN}"}).status


# Hosts.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("llm.example.com", 200),
        ("LLM.example.com:8443", 200),
        ("localhost:1", 200),
        ("[::1]:80", 200),
        ("[::1]", 200),
        ("evil.example.com", 403),
        ("example.com", 403),
        ("llm.example.com.evil.com", 403),
        ("evil.com:llm.example.com", 403),
        ("localhost@evil.com", 403),
        ("localhost:80:80", 403),
        ("127.0.0.1", 403),
        ("::1", 403),
    ],
)
def test_a_foreign_host_is_403(serve: Any, host: str, status: int) -> None:
    """A name that somebody else points here reads and writes nothing, and gets no page."""
    client = serve(hosts=["llm.example.com", "localhost", "[::1]"])
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}

    for path in ("/", "/api/benches"):
        assert status == client.get(path, headers).status
    assert (201 if status == 200 else 403) == client.bench(headers, model="groq").status
    assert (status == 200) == bool(list_benched())


def test_any_host_is_accepted_by_default(client: Client) -> None:
    """Behind a proxy the name may be any."""
    assert 200 == client.get("/api/benches", {"Host": "whatever.internal:99"}).status


# Writes of other sites.

OWN = f"{HOST}"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "Same-Origin"}, False),
        ({"Sec-Fetch-Site": "other"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.com"}, True),
        ({"Origin": "http://{host}"}, True),
        ({"Origin": "https://{host}"}, True),
        ({"Origin": "HTTP://{host}"}, True),
        ({"Origin": "http://evil.com"}, False),
        ({"Origin": "http://{host}.evil.com"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "{host}"}, False),
        ({"Origin": "http://"}, False),
        ({}, True),
    ],
    ids=str,
)
def test_a_write_of_another_site_is_403(
    client: Client, headers: dict[str, str], passes: bool
) -> None:
    """Sec-Fetch-Site decides; without it Origin and Host; without both the token's header."""
    given = {name: each.format(host=f"{HOST}:{client.port}") for name, each in headers.items()}

    assert (201 if passes else 403) == client.bench(given, model="groq").status
    assert passes == bool(list_benched())
    bench_model("groq")
    assert (204 if passes else 403) == client.unbench("groq", given).status
    assert passes == (not list_benched())


def test_a_write_without_any_sign_needs_an_authorization(serve: Any) -> None:
    """Where cookies say who somebody is, a write must show that no other site began it."""
    client = serve(authorize=lambda request, action: request.cookies.get("user", False))
    client.token = None
    cookie = {"Cookie": "user=alice"}

    assert 200 == client.get("/api/benches", cookie).status
    assert 403 == client.bench(cookie, model="groq").status
    assert 403 == client.bench({**cookie, "Sec-Fetch-Site": "cross-site"}, model="groq").status
    assert 201 == client.bench({**cookie, "Sec-Fetch-Site": "same-origin"}, model="groq").status
    assert ["alice"] == [each.by for each in list_benched()]


def test_a_form_of_another_site_does_nothing(serve: Any) -> None:
    """A form sends cookies, and can send text that is JSON, but not as JSON."""
    client = serve(authorize=lambda request, action: request.cookies.get("user", False))
    client.token = None
    headers = {"Cookie": "user=alice", "Origin": "https://evil.com", "Sec-Fetch-Site": "cross-site"}

    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json"):
        answer = client.send(
            "POST", "/api/benches", b'{"model": "groq"}', {**headers, "Content-Type": kind}
        )
        assert 403 == answer.status
    # Even if it did not say where it comes from.
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        answer = client.send(
            "POST",
            "/api/benches",
            b'{"model": "groq"}',
            {"Cookie": "user=alice", "Sec-Fetch-Site": "same-origin", "Content-Type": kind},
        )
        assert 415 == answer.status
    assert [] == list_benched()


def test_no_other_site_is_given_permission(client: Client) -> None:
    """A browser that asks before it sends gets no leave, so that the page of another site reads nothing."""
    answer = client.send(
        "OPTIONS",
        "/api/benches",
        None,
        {
            "Authorization": "",
            "Origin": "https://evil.com",
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "authorization",
        },
    )

    assert 401 == answer.status
    assert [] == [name for name in answer.headers if name.startswith("access-control")]


# Odd texts.

REASON = (
    "<img src=x onerror=alert(1)></script><script>alert(2)</script>\x1b[31m\r\nX-Injected: 1\u202e"
)


def test_a_reason_is_data(client: Client) -> None:
    """It comes back as it was, as JSON, wherever it is shown; no header is made of it."""
    answer = client.bench(model="groq", reason=REASON)

    assert 201 == answer.status
    assert "x-injected" not in answer.headers
    for path in ("benches", "targets", "health", "chains"):
        found = client.get(f"/api/{path}")
        assert "application/json" == found.headers["content-type"]
        assert "nosniff" == found.headers["x-content-type-options"]
        assert b"\x1b" not in found.content
    assert REASON == client.get("/api/benches").json[0]["reason"]


def test_a_reason_does_not_end_an_event(client: Client) -> None:
    """Newlines in it are escaped, so that nobody can send an event of their own."""
    reason = "x\n\nevent: CallFailed\ndata: {}\n\n\r\r\u2028"
    with client.stream() as events:
        events.until_greeted()
        client.bench(model="groq", reason=reason)
        message = events.next()
        while message.type != "TargetBenched":
            message = events.next()

    assert reason == message.data["reason"]


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "1\n2", "x" * 600])
def test_nothing_of_a_request_comes_back_in_a_header(client: Client, value: str) -> None:
    """Neither a key nor a parameter ends a header."""
    for answer in (
        client.bench(model=value),
        client.unbench(value),
        client.get("/api/health", None, expected=value),
    ):
        assert 422 == answer.status
        assert "x-injected" not in answer.headers
        assert len(answer.content) < 400


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /llm/api/benches HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/api/benches HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xff\r\n\r\n",
        b"GET /llm/api/benches?\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/api/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/api/..%2f..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/..//api/benches HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm//api/benches HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/api//benches HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/API/benches HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /llm/api/benches;x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=lambda lines: repr(lines[:32]),
)
def test_no_spelling_of_a_path_goes_past_the_token(client: Client, lines: bytes) -> None:
    """What is not the API is not there, and what is it wants the token."""
    bench_model("groq/hidden")
    with socket.create_connection((HOST, client.port), timeout=PATIENCE) as connection:
        lines = lines.replace(b"/llm/", f"{client.root}/".encode())
        connection.sendall(lines.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    status = int(answer.split()[1])
    assert status in (400, 401, 404)
    assert b"hidden" not in answer


def _status(app: Any, method: str, path: str, headers: list[tuple[str, str]]) -> int:
    """Return what the app answers to a request as a server may pass it on."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"model": "groq"}', "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    query = b"model=groq" if method == "DELETE" else b""
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": raw}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


GIVEN = [
    ("Host", "llm.example.com"),
    ("Authorization", f"Bearer {TOKEN}"),
    ("Content-Type", "application/json"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Origin", "https://llm.example.com"),
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("header", GIVEN, ids=lambda each: each[0])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/benches"), ("POST", "/api/benches"), ("DELETE", "/api/benches")],
)
def test_a_header_that_decides_is_400_if_it_comes_twice(
    method: str, path: str, header: tuple[str, str], same: bool, is_first: bool
) -> None:
    """A proxy may have looked at the other one; equal ones are refused, too."""
    app = admin.app(authorize=admin.token(TOKEN), hosts=["llm.example.com"])
    other = header if same else (header[0], "other")
    headers = [other, *GIVEN] if is_first else [*GIVEN, other]

    assert 400 == _status(app, method, path, headers)
    assert [] == list_benched()
    assert (201 if method == "POST" else 404 if method == "DELETE" else 200) == _status(
        app, method, path, GIVEN
    )


@pytest.mark.parametrize("header", GIVEN[1:], ids=lambda each: each[0])
def test_a_repeated_header_is_a_problem_that_repeats_no_value(
    client: Client, header: tuple[str, str]
) -> None:
    """The answer over a socket names the header alone."""
    name, value = header
    lines = [f"GET {client.root}/api/benches HTTP/1.1", "Host: a", "Connection: close"]
    lines += [f"{name}: {value}", f"{name.upper()}: {value}", "", ""]
    with socket.create_connection((HOST, client.port), timeout=PATIENCE) as connection:
        connection.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"400" == head.split()[1]
    assert b"application/problem+json" in head
    assert f"the header {name.lower()} must not come more than once" == json.loads(body)["detail"]
    assert TOKEN.encode() not in answer


def test_problems_are_json_whatever_they_quote(client: Client) -> None:
    """A key with quotes and brackets in it is quoted and cut."""
    answer = client.unbench('groq/"}<script>' + "x" * 300)

    assert 404 == answer.status
    assert json.loads(answer.content)


def test_the_token_shows_nowhere(client: Client) -> None:
    """No answer, and no text of the app, contains it."""
    for path in ("/", *(f"/api/{each}" for each in PATHS if each != "events")):
        answer = client.get(path)

        assert TOKEN.encode() not in answer.content
        assert TOKEN not in str(answer.headers)
    app: Any = admin.app(authorize=admin.token(TOKEN))
    assert TOKEN not in repr(vars(app))
