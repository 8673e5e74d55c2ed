"""`add_exception_handlers`: which answer an error becomes, and where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from resilient_llm import (
    BreakerOpenError,
    BudgetExceededError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    NoCapableTargetError,
    ResponseRejectedError,
    StoreUnavailableError,
    StreamInterruptedError,
    Target,
    ToolLoopError,
    failover,
)
from resilient_llm.integrations.starlette import add_exception_handlers
from tests.integrations.starlette.client import answer, closes
from tests.support.asgi import served
from tests.support.providers import Provider, overloaded

# With any deprecation of the test client itself, which is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette.testclient")

SECRET = "the prompt of somebody"
MINI = "openai/gpt-5-mini"


def exhausted(retry_after: float | None = None) -> ChainExhaustedError:
    return ChainExhaustedError(SECRET, [ValueError(SECRET)], retry_after=retry_after)


def interrupted_by_deadline() -> Exception:
    from resilient_llm._values.errors import StreamDeadlineExceededError

    return StreamDeadlineExceededError(MINI, 3, 1.0)


ERRORS: dict[str, tuple[Callable[[], Exception], int]] = {
    "budget": (lambda: BudgetExceededError(SECRET, SECRET), 429),
    "no capable target": (lambda: NoCapableTargetError([SECRET], None, {SECRET: [SECRET]}), 422),
    "rejected": (lambda: CallRejectedError(SECRET, SECRET), 503),
    "breaker": (lambda: BreakerOpenError(SECRET, SECRET), 503),
    "tool loop": (lambda: ToolLoopError(SECRET, SECRET, 5), 503),
    "store": (lambda: StoreUnavailableError(SECRET, SECRET), 503),
    "exhausted": (exhausted, 503),
    "deadline": (lambda: DeadlineExceededError(3.0), 504),
    "answer": (lambda: ResponseRejectedError(SECRET, SECRET), 502),
    "stream": (lambda: StreamInterruptedError(SECRET, 3, text_so_far=SECRET), 502),
    "deadline of a stream": (interrupted_by_deadline, 504),
}
TITLES = {
    422: "Unprocessable Content",
    429: "Too Many Requests",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def raising(error: Callable[[], Exception], *, sync: bool = False) -> Any:
    async def endpoint(request: Request) -> Any:
        raise error()

    def sync_endpoint(request: Request) -> Any:
        raise error()

    return sync_endpoint if sync else endpoint


def app_of(error: Callable[[], Exception], *, sync: bool = False, **options: Any) -> Starlette:
    app = Starlette(routes=[Route("/", raising(error, sync=sync))], **options)
    add_exception_handlers(app)
    return app


def client_of(app: Any) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("sync", [False, True])
def test_an_error_has_the_status_of_its_class(name: str, sync: bool) -> None:
    """An error becomes a problem of the three members that show nothing of it."""
    error, status = ERRORS[name]

    response = client_of(app_of(error, sync=sync)).get("/")

    assert status == response.status_code
    assert "application/problem+json" == response.headers["content-type"]
    assert {
        "type": "about:blank",
        "title": TITLES[status],
        "status": status,
    } == response.json()
    assert SECRET not in response.text + str(response.headers)


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (None, None),
        (0, None),
        (0.0, None),
        (-3.0, None),
        (float("inf"), None),
        (float("nan"), None),
        (0.01, "1"),
        (1, "1"),
        (1.2, "2"),
        (2.0, "2"),
        (3600.5, "3601"),
    ],
)
@pytest.mark.parametrize("kind", ["budget", "rejected", "exhausted"])
def test_retry_after_is_whole_seconds(kind: str, seconds: float | None, header: str | None) -> None:
    """A 429 and a 503 tell the wait rounded up, and none that is unknown or over."""
    made: dict[str, Callable[[], Exception]] = {
        "budget": lambda: BudgetExceededError(MINI, "budget", seconds),
        "rejected": lambda: CallRejectedError(MINI, "benched", seconds),
        "exhausted": lambda: exhausted(seconds),
    }

    response = client_of(app_of(made[kind])).get("/")

    assert header == response.headers.get("retry-after")


def test_only_429_and_503_have_a_retry_after() -> None:
    """A 422 has no Retry-After, even if the error names a wait."""

    def error() -> Exception:
        made = NoCapableTargetError(["tools"], None, {MINI: ["tools"]})
        made.retry_after = 4.0
        return made

    response = client_of(app_of(error)).get("/")

    assert 422 == response.status_code
    assert "retry-after" not in response.headers


def test_other_errors_are_left_alone() -> None:
    """A misconfiguration is an internal error, and an HTTPException is the framework's."""
    wrong = client_of(app_of(lambda: ConfigurationError(SECRET))).get("/")
    missing = client_of(app_of(lambda: HTTPException(404, "no such thing"))).get("/")

    assert (500, "Internal Server Error") == (wrong.status_code, wrong.text)
    assert (404, "no such thing") == (missing.status_code, missing.text)


def test_added_twice_is_added_once() -> None:
    """The second time changes nothing, also after the application has started."""
    app = app_of(exhausted)
    before = dict(app.exception_handlers)

    add_exception_handlers(app)
    with TestClient(app) as client:
        add_exception_handlers(app)
        status = client.get("/").status_code

    assert before == app.exception_handlers
    assert 503 == status


def test_a_started_application_is_refused() -> None:
    """Handlers that would have no effect are a ConfigurationError."""
    app = Starlette(routes=[Route("/", raising(exhausted))])
    client_of(app).get("/")

    with pytest.raises(ConfigurationError, match="the application has started"):
        add_exception_handlers(app)
    assert {} == app.exception_handlers


@pytest.mark.parametrize(
    "app", [Router(), APIRouter(), None, FastAPI], ids=["Router", "APIRouter", "None", "class"]
)
def test_what_is_no_application_is_refused(app: Any) -> None:
    """A router has no handlers of its own."""
    with pytest.raises(
        ConfigurationError, match="expected a Starlette or FastAPI application; a router has"
    ):
        add_exception_handlers(app)


def test_handlers_of_the_application_are_kept() -> None:
    """A handler that is there before serves its class and all subclasses; a later one replaces ours."""

    async def mine(request: Request, error: Exception) -> Any:
        return PlainTextResponse("mine", 418)

    before = Starlette(
        routes=[
            Route("/budget", raising(ERRORS["budget"][0])),
            Route("/exhausted", raising(exhausted)),
        ],
        exception_handlers={CallRejectedError: mine},
    )
    add_exception_handlers(before)
    after = app_of(exhausted)
    after.add_exception_handler(ChainExhaustedError, mine)

    assert 418 == client_of(before).get("/budget").status_code
    assert 503 == client_of(before).get("/exhausted").status_code
    assert 418 == client_of(after).get("/").status_code


def test_a_handler_of_a_base_class_does_not_hide_ours() -> None:
    """An error has the status of the table where the application handles every Exception."""

    async def mine(request: Request, error: Exception) -> Any:
        return PlainTextResponse("mine", 418)

    app = Starlette(
        routes=[Route("/", raising(exhausted)), Route("/late", raising(ERRORS["deadline"][0]))],
        exception_handlers={Exception: mine, TimeoutError: mine},
    )
    add_exception_handlers(app)

    assert 503 == client_of(app).get("/").status_code
    assert 504 == client_of(app).get("/late").status_code


def test_routers_have_the_handlers_and_mounted_applications_their_own() -> None:
    """A mounted application answers its own errors, once it has the handlers, too."""
    inner = Starlette(routes=[Route("/", raising(exhausted))])
    app = Starlette(
        routes=[
            Mount("/router", Router(routes=[Route("/", raising(exhausted))])),
            Mount("/app", inner),
        ]
    )
    add_exception_handlers(app)
    without = client_of(app).get("/app/").status_code
    inner.middleware_stack = None  # as it was before the first request
    add_exception_handlers(inner)

    assert 503 == client_of(app).get("/router/").status_code
    assert 500 == without
    assert 503 == client_of(app).get("/app/").status_code


def test_a_subclass_has_the_status_of_its_base() -> None:
    """Classes of the application's own are answered as those that they inherit from."""

    class MineError(BreakerOpenError):
        pass

    response = client_of(app_of(lambda: MineError(MINI, "benched", 2.5))).get("/")

    assert (503, "3") == (response.status_code, response.headers["retry-after"])


def test_an_error_in_a_task_group_is_answered_too() -> None:
    """A group of nothing but our errors is answered as its first member."""

    async def endpoint(request: Request) -> Any:
        async def fail() -> None:
            raise exhausted(7.0)

        async with anyio.create_task_group() as group, anyio.create_task_group() as inner:
            del group
            inner.start_soon(fail)

    app = Starlette(routes=[Route("/", endpoint)])
    add_exception_handlers(app)
    response = client_of(app).get("/")

    assert (503, "7") == (response.status_code, response.headers["retry-after"])


def test_a_group_with_another_error_is_raised() -> None:
    """A bug beside our error stays an internal error, and leaves as it was raised."""
    error = ExceptionGroup("both", [exhausted(), ValueError("a bug")])
    app = app_of(lambda: error)

    assert 500 == client_of(app).get("/").status_code
    with pytest.raises(ExceptionGroup) as raised:
        TestClient(app).get("/")
    assert error is raised.value


def test_members_of_an_exhausted_chain_do_not_decide() -> None:
    """An exhausted chain whose members were refused by budgets is a 503."""

    def error() -> Exception:
        return ChainExhaustedError("none", [BudgetExceededError(MINI, "budget", 3.0)])

    assert 503 == client_of(app_of(error)).get("/").status_code


def test_errors_of_dependencies() -> None:
    """FastAPI answers an error of a dependency, before and after its `yield`, in the same way."""
    app = FastAPI()
    add_exception_handlers(app)

    def fails() -> None:
        raise exhausted(2)

    def gives() -> Iterator[str]:
        yield "value"

    async def agives() -> Any:
        yield "value"

    @app.get("/fails", dependencies=[Depends(fails)])
    async def fails_before() -> str:
        return "never"

    @app.get("/sync")
    def sync_endpoint(value: str = Depends(gives)) -> str:
        raise exhausted(2)

    @app.get("/async")
    async def async_endpoint(value: str = Depends(agives)) -> str:
        raise exhausted(2)

    for path in ("/fails", "/sync", "/async"):
        response = client_of(app).get(path)
        assert (503, "2") == (response.status_code, response.headers["retry-after"]), path


def test_errors_behind_a_middleware() -> None:
    """A middleware sees the answer; an error that it raises itself is outside of all handlers."""
    statuses: list[int] = []

    class Sees(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            if request.url.path == "/mine":
                raise exhausted()
            response = await call_next(request)
            statuses.append(response.status_code)
            return response

    app = app_of(exhausted, middleware=[Middleware(Sees)])

    assert 503 == client_of(app).get("/").status_code
    assert [503] == statuses
    assert 500 == client_of(app).get("/mine").status_code


def test_an_error_in_a_background_task_leaves_the_answer_whole() -> None:
    """The answer has been sent, and the error is the cause of what the server logs."""

    def fail() -> None:
        raise exhausted()

    async def endpoint(request: Request) -> Any:
        return JSONResponse({"fine": True}, background=BackgroundTask(fail))

    app = Starlette(routes=[Route("/", endpoint)])
    add_exception_handlers(app)

    assert {"fine": True} == client_of(app).get("/").json()
    with pytest.raises(RuntimeError) as raised:
        TestClient(app).get("/")
    assert isinstance(raised.value.__cause__, ChainExhaustedError)


def test_an_endpoint_class() -> None:
    """An endpoint that is a class is answered for as well."""

    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Any:
            raise exhausted()

    app = Starlette(routes=[Route("/", Endpoint)])
    add_exception_handlers(app)

    assert 503 == client_of(app).get("/").status_code


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (exhausted, 1013, "Service Unavailable"),
        (ERRORS["budget"][0], 1013, "Too Many Requests"),
        (ERRORS["stream"][0], 1011, "Bad Gateway"),
    ],
)
@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_a_websocket_is_closed(
    framework: Any, accepts: bool, error: Callable[[], Exception], code: int, reason: str
) -> None:
    """A WebSocket is closed with a code that says whether to try again."""

    async def endpoint(websocket: WebSocket) -> None:
        if accepts:
            await websocket.accept()
        raise error()

    app = framework()
    if framework is FastAPI:
        app.websocket("/")(endpoint)
    else:
        app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    add_exception_handlers(app)

    with pytest.raises(WebSocketDisconnect) as raised, TestClient(app).websocket_connect("/") as ws:
        ws.receive_text()
    assert (code, reason) == (raised.value.code, raised.value.reason)


def test_a_websocket_that_is_closed_stays_so() -> None:
    """An error after the end of a WebSocket closes nothing a second time."""

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000)
        raise exhausted()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    add_exception_handlers(app)

    with pytest.raises(WebSocketDisconnect) as raised, TestClient(app).websocket_connect("/") as ws:
        ws.receive_text()
    assert 4000 == raised.value.code


@pytest.mark.usefixtures("resilient_llm")
def test_a_real_outage() -> None:
    """A chain whose providers are down is a 503 over a real server, with the wait of the bench."""
    openai = pytest.importorskip("openai")
    with Provider("openai") as provider:
        provider.says(overloaded("openai", 503))
        client = openai.AsyncOpenAI(base_url=provider.url, api_key="not-a-key", max_retries=0)

        @failover(chain=[MINI], attempts=2, backoff=lambda _: 0.0)
        async def ask(target: Target, prompt: str) -> Any:
            return await client.chat.completions.create(
                model=target.model, messages=[{"role": "user", "content": prompt}]
            )

        app = FastAPI(lifespan=closes(client))
        add_exception_handlers(app)

        @app.post("/chat")
        async def chat(body: dict[str, str]) -> str:
            return str(await ask(body["prompt"]))

        with served(app) as port:
            status, headers, body = answer(port, "/chat", body={"prompt": SECRET})

    assert 503 == status
    assert {"type", "title", "status"} == set(body)
    assert 1 <= int(headers["retry-after"]) <= 60
    assert SECRET not in json.dumps(body) + str(headers)
