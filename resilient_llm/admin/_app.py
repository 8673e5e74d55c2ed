"""`Admin`: the ASGI application. Decides who may do what, then asks the module that knows.

A request passes, in this order: headers that come twice, Host, `authorize`, path and method,
whether another site began the write, ``read_only``. Everything under ``api/`` is authorized before
its path is looked at, so that nobody learns which paths there are. What asks the circuits runs in a
thread, since their events may be delivered there to observers that take their time; so does a
synchronous `authorize`.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.built_in import class_name
from resilient_llm.admin import _openapi, _page, _reading, _views
from resilient_llm.admin._access import Token, host_name, is_from_elsewhere, repeated_header
from resilient_llm.admin._problems import Problem
from resilient_llm.admin._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from resilient_llm.admin._access import Action, Authorize

    Handler = Callable[[Request, str], Awaitable[Response]]

LONGEST_BY: Final = 200
_READS: Final = ("GET", "HEAD", "OPTIONS")
_MOST_THREADS: Final = 8
"""Threads that one app uses at a time. They are not those that the rest of the application
shares, which may all wait for a provider just now."""
_ALWAYS: Final = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"


class Admin:
    """The admin page and its API; made by `resilient_llm.admin.app`."""

    def __init__(
        self,
        authorize: Authorize,
        hosts: frozenset[str] | None,
        *,
        read_only: bool,
        of_store: bool = False,
    ) -> None:
        self._of_store = of_store
        """Whether it shows a store alone, from a process that makes no calls."""
        self._authorize = authorize
        self._hosts = hosts
        self._read_only = read_only
        self._watch = Watch()
        self._threads: RunVar[anyio.CapacityLimiter] = RunVar(
            f"resilient_llm.admin.threads.{id(self)}"
        )
        self._routes: dict[str, dict[str, Handler]] = {
            "/api/health": {"GET": self._get_health},
            "/api/targets": {"GET": self._get_targets},
            "/api/benches": {
                "GET": self._get_benches,
                "POST": self._post_bench,
                "DELETE": self._delete_bench,
            },
            "/api/chains": {"GET": self._get_chains},
            "/api/config": {"GET": self._get_config},
            "/api/spend": {"GET": self._get_spend},
            "/api/store": {"GET": self._get_store},
            "/api/events": {"GET": self._get_events},
            "/api/openapi.json": {"GET": self._get_openapi},
        }

    def __repr__(self) -> str:
        return "admin.app(…)"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Problem as problem:
            response = _response(
                problem.body, problem.status, "application/problem+json", problem.headers
            )
        except ClientDisconnect:
            return
        if request.method == "HEAD":
            response = _without_body(response)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        self._watch.start()
        path = _path_in_app(request.scope)
        repeated = repeated_header(name for name, _ in request.headers.raw)
        if repeated is not None:
            raise Problem(400, f"the header {repeated} must not come more than once")
        if self._hosts is not None:
            name = host_name(request.headers.get("host", ""))
            if name not in self._hosts:
                raise Problem(403, "this name of the host is not among those that are allowed")
        if not path.startswith("/api/") and path != "/api":
            return _get_page(request, path)
        action: Action = "read" if request.method in _READS else "write"
        by = await self._authorized(request, action)
        methods = self._routes.get(path)
        if methods is None:
            raise Problem(404, "there is no such path: see api/openapi.json")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise _wrong_method(*(each for each in methods if each == "GET" or not self._read_only))
        if action == "write":
            if is_from_elsewhere(request.headers):
                raise Problem(403, "a write must not come from the page of another site")
            if self._read_only:
                raise Problem(403, "this page is read-only")
        return await handler(request, by)

    # Who may.

    async def _authorized(self, request: Request, action: Action) -> str:
        """Return who it is, which may be empty.

        Raises:
            Problem: If the request is not allowed, or `authorize` fails.
        """
        if isinstance(self._authorize, Token):
            if self._authorize(request, action):
                return ""
            raise Problem(
                401, "the token is missing or wrong", headers={"www-authenticate": "Bearer"}
            )
        try:
            if check.is_async(self._authorize):
                answer: Any = self._authorize(request, action)
            else:
                answer = await self._in_thread(self._authorize, request, action)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:  # noqa: BLE001  # of users' code
            self._log_failure(error)
            raise Problem(500, "the function authorize failed; nothing was done") from None
        if answer is True:
            return ""
        if isinstance(answer, str) and answer.strip():
            return answer[:LONGEST_BY]
        raise Problem(403, f"this request may not {action}")

    def _log_failure(self, error: Exception) -> None:
        authorize = cast("Any", self._authorize)
        if runtime.dispatcher.log_line is not None and runtime.dispatcher.fails_first(authorize):
            runtime.dispatcher.log_line(
                f"authorize of the admin page failed with {class_name(type(error))}; "
                "the request was answered by 500",
                warning=True,
            )

    async def _in_thread(self, function: Callable[..., Any], /, *args: Any) -> Any:
        try:
            limiter = self._threads.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_MOST_THREADS)
            self._threads.set(limiter)
        return await anyio.to_thread.run_sync(function, *args, limiter=limiter)

    # What there is.

    async def _get_health(self, request: Request, by: str) -> Response:
        wanted = [
            _reading.key(each) for each in _reading.query(request, "expected").get("expected", [])
        ]
        found: dict[str, Any] = await self._in_thread(_views.overall, wanted)
        return _json(found, 503 if found["status"] == "down" else 200)

    async def _get_targets(self, request: Request, by: str) -> Response:
        _reading.query(request)
        return _json(await self._in_thread(_views.target_list, self._watch.samples))

    async def _get_benches(self, request: Request, by: str) -> Response:
        _reading.query(request)
        return _json(await self._in_thread(_views.bench_list))

    async def _get_chains(self, request: Request, by: str) -> Response:
        _reading.query(request)
        return _json(await self._in_thread(_views.chain_list))

    async def _get_config(self, request: Request, by: str) -> Response:
        _reading.query(request)
        return _json(await self._in_thread(_views.config_view))

    async def _get_spend(self, request: Request, by: str) -> Response:
        key = _reading.spend_key(_reading.query(request, "key").get("key", []))
        found = _views.store_spend_list if self._of_store else _views.spend_list
        return _json(await self._in_thread(found, key))

    async def _get_store(self, request: Request, by: str) -> Response:
        _reading.query(request)
        await self._in_thread(self._watch.catch_up)  # an outage is known by its event

        def view() -> dict[str, Any]:
            return _views.store_view(self._watch.outage, of_store=self._of_store)

        return _json(await self._in_thread(view))

    async def _post_bench(self, request: Request, by: str) -> Response:
        _reading.query(request)
        wanted = await _reading.wanted_bench(request)
        return _json(await self._in_thread(_views.bench, wanted, by), 201)

    async def _delete_bench(self, request: Request, by: str) -> Response:
        models = _reading.query(request, "model").get("model", [])
        if len(models) != 1:
            raise Problem(422, "write one parameter 'model', such as ?model=groq%2Fllama")
        key = _reading.key(models[0])
        await self._in_thread(_views.unbench, key, by)
        return _response(b"", 204, None)

    async def _get_events(self, request: Request, by: str) -> Response:
        _reading.query(request)
        await self._in_thread(self._watch.catch_up)  # what happened before is not to come after
        position = self._watch.feed.position(request.headers.get("last-event-id"))
        return _EventStream(self._watch, position)

    async def _get_openapi(self, request: Request, by: str) -> Response:
        _reading.query(request)
        root = quote(request.scope.get("root_path", ""))
        return _json(_openapi.document(read_only=self._read_only, server=root))


class _EventStream(Response):
    """Sends events until the reader goes."""

    def __init__(self, watch: Watch, position: int) -> None:
        super().__init__(
            headers={
                **_ALWAYS,
                "content-security-policy": _DATA_POLICY,
                "x-accel-buffering": "no",
            },
            media_type="text/event-stream",
        )
        del self.headers["content-length"]
        self._watch = watch
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_text(text: bytes) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": True})

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(until_gone)
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                await self._watch.feed.send_to(send_text, self._position)
            except OSError:  # how newer servers say that the reader is gone
                group.cancel_scope.cancel()


async def _lifespan(receive: Receive, send: Send) -> None:
    """Answer a server that runs this app by itself; there is nothing to start."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _get_page(request: Request, path: str) -> Response:
    if path == "":
        # Relative addresses need the slash. Relative itself, for whatever stands before this app.
        last = request.scope["path"].rpartition("/")[2]
        return _response(b"", 307, None, {"location": f"./{quote(last)}/"})
    if path != "/":
        raise Problem(404, "there is no such path")
    if request.method not in ("GET", "HEAD"):
        raise _wrong_method("GET")
    found = _page.page()
    return _response(
        found.html,
        200,
        "text/html; charset=utf-8",
        {"content-security-policy": found.policy},
    )


def _path_in_app(scope: Scope) -> str:
    """Return the path below the one at which this app is mounted.

    A proxy in front may have taken the first part of the root path away before it asked.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    while root:
        if path == root:
            return ""
        if path.startswith(f"{root}/"):
            return path[len(root) :]
        _, slash, rest = root.lstrip("/").partition("/")
        root = slash + rest
    return path


def _wrong_method(*allowed: str) -> Problem:
    names = [*allowed, "HEAD"] if "GET" in allowed else [*allowed]
    return Problem(405, f"allowed are {', '.join(names)}", headers={"allow": ", ".join(names)})


def _json(value: Any, status: int = 200) -> Response:
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return _response(content, status, "application/json")


def _response(
    content: bytes, status: int, kind: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    every = {**_ALWAYS, "content-security-policy": _DATA_POLICY, **(headers or {})}
    return Response(content, status, every, kind)


def _without_body(response: Response) -> Response:
    """Return the answer to HEAD: the headers of GET alone."""
    response.body = b""
    return (
        response
        if not isinstance(response, _EventStream)
        else _response(b"", 200, "text/event-stream")
    )
