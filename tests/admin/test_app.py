"""`admin.app` and `admin.token`: what they refuse, where the app may stand, what the page sends."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import ConfigurationError, admin
from tests.support.asgi import TOKEN, Client, mounted, served

WRONG_HOSTS = [
    "llm.example.com",
    b"x",
    3,
    [],
    ["a:80"],
    ["https://a"],
    [""],
    ["a b"],
    [None],
    ["a\n"],
]


@pytest.mark.parametrize("authorize", [None, True, "secret", object(), int])
def test_authorize_must_be_a_function(authorize: Any) -> None:
    """Without one nobody could be let in, or anybody."""
    with pytest.raises(ConfigurationError, match=r"authorize of type .* admin\.token"):
        admin.app(authorize=authorize)


@pytest.mark.parametrize("secret", ["", "a" * 15])
def test_a_short_token_is_refused(secret: str) -> None:
    """A token has at least 16 characters."""
    with pytest.raises(ConfigurationError, match=f"{len(secret)} characters is too short"):
        admin.token(secret)


@pytest.mark.parametrize(
    "secret", [None, 1234567890123456, b"a" * 20, "a" * 20 + " ", "ü" * 20, "a\n" * 20]
)
def test_a_token_that_no_header_can_carry_is_refused(secret: Any) -> None:
    """A token is a printable ASCII text without blanks, and is not repeated in the message."""
    with pytest.raises(ConfigurationError) as refused:
        admin.token(secret)

    assert not isinstance(secret, str) or secret not in str(refused.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_token_is_not_pickled(protocol: int) -> None:
    """A pickle would have it in the clear; a copy is the same token."""
    token = admin.token(TOKEN)

    for each in (token, {"authorize": token}, admin.app(authorize=token)):
        with pytest.raises((TypeError, AttributeError)) as refused:
            pickle.dumps(each, protocol)
        assert TOKEN not in str(refused.value)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(token, protocol)
    assert token is copy.copy(token) is copy.deepcopy({"authorize": token})["authorize"]


def test_a_token_of_16_characters_is_enough() -> None:
    """The shortest token is accepted, and shows in no repr."""
    token = admin.token("0123456789abcdef")

    assert "0123" not in repr(token)
    assert "0123" not in repr(admin.app(authorize=token))


@pytest.mark.parametrize("hosts", WRONG_HOSTS, ids=repr)
def test_hosts_are_names(hosts: Any) -> None:
    """What is no sequence of names is refused where it is written."""
    with pytest.raises(ConfigurationError, match="hosts"):
        admin.app(authorize=admin.token(TOKEN), hosts=hosts)


@pytest.mark.parametrize("read_only", [None, 1, "yes"])
def test_read_only_is_a_flag(read_only: Any) -> None:
    """Anything but True and False is refused."""
    with pytest.raises(ConfigurationError, match="read_only"):
        admin.app(authorize=admin.token(TOKEN), read_only=read_only)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starlette the error says what to install."""
    for name in [name for name in sys.modules if name.startswith("resilient_llm.admin._app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(admin, "_app", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)

    with pytest.raises(ImportError, match=re.escape('pip install "resilient-llm[admin]"')):
        admin.app(authorize=admin.token(TOKEN))


def test_importing_it_brings_no_framework() -> None:
    """The module by itself loads neither starlette nor an event loop."""
    code = (
        "import sys, resilient_llm.admin\n"
        "print({'starlette', 'uvicorn', 'anyio', 'asyncio'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "set()" == done.stdout.strip()


def test_it_needs_no_lifespan_and_bears_one(serve: Any) -> None:
    """It can stand in an application, and be the application that a server runs by itself."""
    app = admin.app(authorize=admin.token(TOKEN))
    for lifespan in ("on", "off"):
        with served(app, lifespan=lifespan) as port:
            assert 200 == Client(port).get("/api/health").status
            assert 200 == Client(port).get("/").status


def test_it_mounts_in_fastapi(serve: Any) -> None:
    """`FastAPI.mount` takes it."""
    fastapi = pytest.importorskip("fastapi")
    host = fastapi.FastAPI()
    host.mount("/llm", admin.app(authorize=admin.token(TOKEN)))

    with served(host) as port:
        assert 200 == Client(port, "/llm").get("/api/health").status
        assert 200 == Client(port, "/llm").get("/").status


@pytest.mark.parametrize("root", ["/proxy", "/a/b"])
@pytest.mark.parametrize("strips", [True, False])
def test_it_works_below_any_root_path(serve: Any, root: str, strips: bool) -> None:
    """A proxy may have a path of its own, and may take it away or not before it asks."""
    inner = mounted(admin.app(authorize=admin.token(TOKEN)))

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"] if strips else root + scope["path"]
            scope = {**scope, "root_path": root, "path": path}
        await inner(scope, receive, send)

    with served(proxied) as port:
        client = Client(port, "/llm")
        assert 200 == client.get("/api/benches").status
        assert 200 == client.get("/").status
        document = client.get("/api/openapi.json").json
        assert f"{root}/llm" == document["servers"][0]["url"]


async def _answer(app: Any, path: str, root: str) -> tuple[int, dict[bytes, bytes]]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_without_the_slash_the_page_is_redirected_relatively() -> None:
    """A relative address would miss the app, and an absolute one the proxy before it."""
    import anyio

    app = admin.app(authorize=admin.token(TOKEN))

    status, headers = anyio.run(_answer, app, "/x/llm", "/x/llm")

    assert (307, b"./llm/") == (status, headers[b"location"])


def test_the_page_is_open_and_holds_no_data(client: Client) -> None:
    """Whoever asks gets the page, which is the same for all."""
    client.bench(model="groq/secret-name")
    client.token = None

    page = client.get("/")

    assert 200 == page.status
    assert "text/html; charset=utf-8" == page.headers["content-type"]
    assert b"secret-name" not in page.content
    assert 405 == client.send("POST", "/").status
    assert 404 == client.get("/other").status


def test_script_and_style_are_allowed_by_their_hashes(client: Client) -> None:
    """The policy allows the one script and the one style of the page, and no other source."""
    page = client.get("/")
    html = page.content.decode()
    policy = dict(
        each.strip().partition(" ")[::2]
        for each in page.headers["content-security-policy"].split(";")
    )

    assert "'none'" == policy["default-src"]
    assert "'none'" == policy["frame-ancestors"]
    assert "'self'" == policy["connect-src"]
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" == policy[f"{tag}-src"]


def test_the_page_names_no_other_place(client: Client) -> None:
    """It is one file: nothing is loaded from anywhere, and every address is relative."""
    html = client.get("/").content.decode().replace("http://www.w3.org/2000/svg", "")

    assert [] == re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", html)
    assert [] == re.findall(r"\b(?:src|href|action)=[\"']/", html)
    assert [] == re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", html
    )


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/benches", "/api/nothing", "/other"])
def test_every_answer_is_guarded(client: Client, path: str) -> None:
    """No answer is kept, framed, or read as something else."""
    headers = client.get(path).headers

    assert "no-store" == headers["cache-control"]
    assert "nosniff" == headers["x-content-type-options"]
    assert "DENY" == headers["x-frame-options"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


def test_the_module_is_public() -> None:
    """It offers two names."""
    assert ["app", "token"] == importlib.import_module("resilient_llm.admin").__all__
