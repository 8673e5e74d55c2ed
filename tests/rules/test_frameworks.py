"""Exceptions of the application's own frameworks: what each means, by the class of the real package.

Packages that are not installed are skipped here; `make apps` installs the light ones.
"""

from __future__ import annotations

import importlib
import signal
import unittest
from collections.abc import Callable
from typing import Any

import aiohttp
import aiohttp.web
import httpx
import httpx2
import openai
import pytest
import tenacity
import yarl

from resilient_llm import ErrorKind, Target, Verdict, classify, failover
from resilient_llm.rules import frameworks
from tests.support.errors import AppError, answered, httpx_error, shaped, wrapped

CONTROL_FLOW = Verdict(ErrorKind.CALLER_BUG, "control_flow")
TIME_LIMIT = Verdict(ErrorKind.CANCELLED, "time_limit")

REAL: list[tuple[str, tuple[Any, ...]]] = [
    ("starlette.exceptions.HTTPException", (404, "no such chat")),
    ("starlette.exceptions.HTTPException", (429, "slow down", {"retry-after": "30"})),
    ("starlette.requests.ClientDisconnect", ()),
    ("starlette.websockets.WebSocketDisconnect", (1001,)),
    ("fastapi.HTTPException", (403, {"error": {"code": "insufficient_quota"}})),
    ("fastapi.exceptions.RequestValidationError", ([],)),
    ("fastapi.WebSocketException", (1008,)),
    ("werkzeug.exceptions.NotFound", ()),
    ("werkzeug.exceptions.TooManyRequests", ("wait", None, 20)),
    ("werkzeug.routing.RequestRedirect", ("/login",)),
    ("rest_framework.exceptions.Throttled", (30,)),
    ("rest_framework.exceptions.NotAuthenticated", ()),
    ("django.http.Http404", ("no such page",)),
    ("django.core.exceptions.PermissionDenied", ()),
    ("django.core.exceptions.DisallowedHost", ()),
    ("litestar.exceptions.NotFoundException", ()),
    ("litestar.exceptions.TooManyRequestsException", ()),
    ("aiohttp.web.HTTPNotFound", ()),
    ("aiohttp.web.HTTPFound", ("/login",)),
    ("aiohttp.web.HTTPTooManyRequests", ()),
    ("quart.wrappers.base.ClientDisconnectedError", ()),
    ("sanic.exceptions.Unauthorized", ("no",)),
    ("sanic.exceptions.ServiceUnavailable", ("no",)),
    ("tornado.web.HTTPError", (404,)),
    ("tornado.web.Finish", ()),
    ("falcon.HTTPNotFound", ()),
    ("falcon.HTTPFound", ("/login",)),
    ("bottle.HTTPError", (404, "no")),
    ("pyramid.httpexceptions.HTTPForbidden", ()),
    ("webob.exc.HTTPUnauthorized", ()),
    ("ninja.errors.HttpError", (404, "no")),
    ("channels.exceptions.DenyConnection", ()),
    ("click.exceptions.Exit", (2,)),
    ("celery.exceptions.Retry", ()),
    ("celery.exceptions.Ignore", ()),
    ("celery.exceptions.Reject", ()),
    ("dramatiq.errors.Retry", ("later",)),
    ("huey.exceptions.RetryTask", ()),
    ("huey.exceptions.CancelExecution", ()),
    ("arq.worker.Retry", ()),
    ("taskiq.exceptions.NoResultError", ()),
    ("langgraph.errors.GraphInterrupt", ((),)),
    ("langgraph.errors.ParentCommand", (None,)),
    ("langchain_core.tools.ToolException", ("no",)),
    ("pydantic_ai.exceptions.ModelRetry", ("again",)),
    ("pydantic_ai.exceptions.CallDeferred", ()),
    ("pydantic_ai.exceptions.ApprovalRequired", ()),
    ("pydantic_ai.exceptions.UsageLimitExceeded", ("too much",)),
    ("agents.exceptions.MaxTurnsExceeded", ("too many",)),
    ("unittest.SkipTest", ("not today",)),
    ("vcr.errors.UnhandledHTTPRequestError", ()),
    ("hypothesis.errors.UnsatisfiedAssumption", ()),
]
LIMITS: list[tuple[str, tuple[Any, ...]]] = [
    ("billiard.exceptions.SoftTimeLimitExceeded", ()),
    ("celery.exceptions.SoftTimeLimitExceeded", ()),
    ("celery.exceptions.TimeLimitExceeded", (1,)),
    ("rq.timeouts.JobTimeoutException", ("too long",)),
    ("dramatiq.middleware.TimeLimitExceeded", ()),
    ("gevent.Timeout", (1,)),
    ("gevent.timeout.Timeout", (1, False)),
    ("huey.exceptions.TaskTimeout", ()),
]


@pytest.fixture(autouse=True, scope="module")
def _settings() -> None:
    """Let Django and what is built on it be used without a project."""
    try:
        import django
        from django.conf import settings
    except ImportError:
        return
    if not settings.configured:
        settings.configure()
        django.setup()


def made(path: str, args: tuple[Any, ...]) -> BaseException:
    """Return an exception of a real package; skip the test if that is not installed."""
    module, _, name = path.rpartition(".")
    pytest.importorskip(module.partition(".")[0], exc_type=ImportError)
    error: BaseException = getattr(importlib.import_module(module), name)(*args)
    return error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("path", "args"), REAL, ids=lambda value: str(value))
def test_what_a_framework_raises_for_itself_is_control_flow(
    path: str, args: tuple[Any, ...]
) -> None:
    """It blames nobody, has no status of a provider and names no wait, whatever it carries."""
    assert CONTROL_FLOW == classify(made(path, args))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("path", "args"), LIMITS, ids=lambda value: str(value))
def test_a_time_limit_of_a_task_queue_is_a_cancellation(path: str, args: tuple[Any, ...]) -> None:
    """It ends the whole task, so it counts like a cancellation from outside."""
    assert TIME_LIMIT == classify(made(path, args))


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("dramatiq.middleware.Shutdown", ()),
        ("gevent.GreenletExit", ()),
        ("rq.exceptions.ShutDownImminentException", ("now", {})),
    ],
)
def test_the_end_of_a_worker_is_a_cancellation(path: str, args: tuple[Any, ...]) -> None:
    """A worker that is shut down, or a greenlet that is killed, ends what runs in it."""
    assert Verdict(ErrorKind.CANCELLED) == classify(made(path, args))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "names"),
    [(module, names) for (module, names, _), _ in frameworks.TABLE],
    ids=[f"{module}: {names:.30}" for (module, names, _), _ in frameworks.TABLE],
)
def test_every_class_of_the_table_exists(module: str, names: str) -> None:
    """A line has the module and the name that the class gives itself."""
    pytest.importorskip(module.partition(".")[0], exc_type=ImportError)
    parents = module.split(".")
    if parents[0] in _NOT_IMPORTED_WHOLE:
        pytest.importorskip(_NOT_IMPORTED_WHOLE[parents[0]], exc_type=ImportError)
    pytest.importorskip(module, exc_type=ImportError)
    found = {
        cls.__name__
        for cls in _all_exceptions()
        if f"{cls.__module__}.".startswith(f"{module}.") and frameworks.verdict_of[cls] is not ...
    }

    assert set(names.split()) - _OF_OTHER_RELEASES <= found


# What has to be imported for a line whose module does not import it.
_NOT_IMPORTED_WHOLE = {
    "aiohttp": "aiohttp.web",
    "django": "django.http.multipartparser",
    "dramatiq": "dramatiq.rate_limits",
    "falcon": "falcon",
    "langchain_core": "langchain_core.tools",
    "quart": "quart",
    "starlette": "starlette.formparsers",
    "greenlet": "gevent",
    "grpc": "grpc.aio",
}
_OF_OTHER_RELEASES = {"UnhandledHTTPRequestError"}


def _all_exceptions() -> list[type[BaseException]]:
    found: dict[type[BaseException], None] = {}
    waiting: list[type[BaseException]] = [BaseException]
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if cls not in found:
                found[cls] = None
                waiting.append(cls)
    return list(found)


# --- by module and name, without the package --------------------------------------------------


def test_a_subclass_is_known_by_what_it_inherits_from() -> None:
    """An application's own exceptions inherit from its framework's."""

    class NoSuchChat(aiohttp.web.HTTPNotFound):
        """The application's own."""

    class Skipped(unittest.SkipTest):
        """A test suite's own."""

    assert [CONTROL_FLOW, CONTROL_FLOW] == [classify(NoSuchChat()), classify(Skipped())]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("tornado.web.HTTPError", CONTROL_FLOW),
        ("tornado.webapp.HTTPError", None),
        ("celery.app.base.Retry", None),
        ("rq.timeouts.JobTimeoutException", None),
        ("billiard.SoftTimeLimitExceeded", TIME_LIMIT),
        ("airflow.sdk.exceptions.TaskDeferred", CONTROL_FLOW),
        ("airflow.exceptions.AirflowSkipException", CONTROL_FLOW),
        ("airflow.exceptions.AirflowNotFoundException", None),
        ("blacksheep.exceptions.HTTPException", CONTROL_FLOW),
        ("prefect.exceptions.PrefectSignal", CONTROL_FLOW),
        ("pydantic_ai.exceptions.RunCancelled", Verdict(ErrorKind.CANCELLED)),
        ("pydantic_ai.exceptions.RunTimedOut", Verdict(ErrorKind.TRANSIENT, "timeout")),
        ("streamlit.runtime.scriptrunner.script_runner.ScriptControlException", CONTROL_FLOW),
    ],
)
def test_module_and_name_decide(name: str, verdict: Verdict | None) -> None:
    """A class is known by its module or a folder above it, and by its whole name."""
    got = classify(shaped(name))

    assert (verdict or Verdict(ErrorKind.UNKNOWN)) == got


def test_a_class_without_a_module_is_nobodys() -> None:
    """A class may set its module to anything."""
    cls = type("HTTPException", (Exception,), {"__module__": 3})

    assert ErrorKind.UNKNOWN is classify(cls()).kind


# --- what clients raise stays a provider's ----------------------------------------------------


def aiohttp_error(status: int) -> aiohttp.ClientResponseError:
    """Return what aiohttp's client raises for an answer."""
    url = yarl.URL("http://x")
    info = aiohttp.RequestInfo(url, "POST", {}, url)  # type: ignore[arg-type]  # no headers
    return aiohttp.ClientResponseError(info, (), status=status, message="no")


def tornado_error(status: int) -> BaseException:
    client = pytest.importorskip("tornado.httpclient")
    request = client.HTTPRequest("http://x")
    answer = client.HTTPResponse(request, status)
    error: BaseException = client.HTTPClientError(status, response=answer)
    return error


@pytest.mark.parametrize("make", [aiohttp_error, tornado_error, httpx_error])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.AUTH_DEAD),
        (404, ErrorKind.AUTH_DEAD),
        (429, ErrorKind.RATE_LIMITED),
        (503, ErrorKind.TRANSIENT),
    ],
)
def test_the_status_of_a_client_is_a_providers(
    make: Callable[[int], BaseException], status: int, kind: ErrorKind
) -> None:
    """The HTTP clients that live beside a server framework send no control flow."""
    assert (kind, status) == (classify(make(status)).kind, classify(make(status)).status)


def test_a_clients_error_may_inherit_from_a_servers() -> None:
    """blacksheep's HTTP client raises a subclass of what its server raises."""
    base = type("HTTPException", (Exception,), {"__module__": "blacksheep.exceptions"})
    cls = type("FailedRequestError", (base,), {"__module__": "blacksheep.exceptions"})
    error = cls("The response status code does not indicate success: 503. Response body: {data}")
    error.status = 503

    assert ErrorKind.TRANSIENT is classify(error).kind


# --- a status that nobody signed --------------------------------------------------------------


class AppHTTPError(Exception):
    """An exception of an application, with the status that it means to answer."""

    def __init__(self, status: int, name: str = "status_code", **facts: Any) -> None:
        super().__init__("no such chat")
        setattr(self, name, status)
        for key, value in facts.items():
            setattr(self, key, value)


@pytest.mark.parametrize("name", ["status_code", "status", "code", "http_status"])
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 410, 413, 418, 422, 451])
def test_a_bare_status_of_nobodys_class_harms_nobody(status: int, name: str) -> None:
    """Without an answer, a request, a body or headers it may be what our own server answers."""
    verdict = classify(AppHTTPError(status, name))

    assert Verdict(ErrorKind.UNKNOWN, status=status) == verdict


@pytest.mark.parametrize(
    ("status", "kind"),
    [(408, "transient"), (409, "transient"), (425, "transient"), (429, "rate_limited")]
    + [(status, "transient") for status in (500, 502, 503, 504, 529)],
)
def test_a_bare_status_that_passes_keeps_its_kind(status: int, kind: str) -> None:
    """What passes by itself may be waited for, whoever sent it."""
    assert kind == classify(AppHTTPError(status)).kind


@pytest.mark.parametrize(
    "signed",
    [
        AppHTTPError(401, response=httpx.Response(401)),
        AppHTTPError(401, request=httpx.Request("POST", "http://x")),
        AppHTTPError(401, headers={"x-request-id": "1"}),
        AppHTTPError(401, body={"detail": "who are you?"}),
        AppHTTPError(401, message="Error code: 401 - {'detail': 'who are you?'}"),
        AppHTTPError(401, message="401 Client Error: Unauthorized for url: http://x"),
        AppHTTPError(401, message='upstream said {"detail": "who are you?"}'),
        answered(401),
        shaped("mistralai.models.SDKError", ("no",), status_code=401),
    ],
    ids=["response", "request", "headers", "body", "code", "client", "json", "answered", "sdk"],
)
def test_a_status_with_a_trace_of_an_answer_is_a_providers(signed: Exception) -> None:
    """Any trace of an answer or a request shows that somebody was asked."""
    assert ErrorKind.AUTH_DEAD is classify(signed).kind


def test_the_cause_of_a_bare_status_decides() -> None:
    """What an application's exception was raised from says more than its status."""
    error = AppHTTPError(404)
    error.__cause__ = httpx_error(503)

    assert (ErrorKind.TRANSIENT, 503) == (classify(error).kind, classify(error).status)


# --- beneath and beside other errors ----------------------------------------------------------


def asked_with(error: Exception) -> BaseException:
    """Return what many releases of openai make of an exception that interrupts a request."""
    outer = openai.APIConnectionError(request=httpx2.Request("POST", "http://x"))
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("billiard.exceptions.SoftTimeLimitExceeded", TIME_LIMIT),
        ("rq.timeouts.BaseTimeoutException", TIME_LIMIT),
        ("vcr.errors.CannotOverwriteExistingCassetteException", CONTROL_FLOW),
        ("respx.models.AllMockedAssertionError", CONTROL_FLOW),
        ("pytest_socket.SocketBlockedError", CONTROL_FLOW),
    ],
)
def test_what_a_client_has_wrapped_is_found(name: str, verdict: Verdict) -> None:
    """openai and its kin raise an APIConnectionError from whatever interrupts a request."""
    assert verdict == classify(asked_with(shaped(name)))


def translated_by_litellm(limit: Exception) -> BaseException:
    """Return what litellm makes of it: an error of its own, while it handles the client's."""
    try:
        try:
            try:
                raise limit
            except Exception:
                raise shaped("litellm.llms.anthropic.common_utils.AnthropicError", ("x",))  # noqa: B904  # as litellm does
        except Exception:
            raise shaped("litellm.exceptions.InternalServerError", ("x",), status_code=500)  # noqa: B904
    except Exception as error:
        return error


def test_a_time_limit_that_litellm_has_translated_is_found() -> None:
    """It raises an error with a status that it has made up, and names no cause."""
    limit = shaped("billiard.exceptions.SoftTimeLimitExceeded")

    assert TIME_LIMIT == classify(translated_by_litellm(limit))
    assert ErrorKind.TRANSIENT is classify(translated_by_litellm(OSError("x"))).kind


def test_a_call_of_litellm_that_cleans_up_after_a_time_limit_fails_over() -> None:
    """The limit is handled by the code around the call, and says nothing of the call's error."""
    asked: list[str] = []

    @failover(["groq/a", "openai/b"], attempts=1)
    def ask(target: Target) -> str:
        asked.append(target.key)
        if target.provider == "groq":
            raise shaped("litellm.exceptions.InternalServerError", ("x",), status_code=500)
        return "cleaned up"

    try:
        raise shaped("billiard.exceptions.SoftTimeLimitExceeded")
    except Exception:
        answer = ask()

    assert "cleaned up" == answer
    assert ["groq/a", "openai/b"] == asked


def test_a_wrapped_time_limit_is_no_failure_to_a_users_rule() -> None:
    """No rule turns the end of the task into a failure, also where a client has wrapped it."""
    classify.rule(lambda error: Verdict(ErrorKind.TRANSIENT))
    limit = shaped("billiard.exceptions.SoftTimeLimitExceeded")

    assert [TIME_LIMIT] * 3 == [
        classify(limit),
        classify(asked_with(limit)),
        classify(wrapped(limit, 3)),
    ]


def test_a_users_rule_knows_better_than_the_table() -> None:
    """Control flow is judged after the rules of users."""
    classify.rule(lambda error: Verdict(ErrorKind.TRANSIENT))

    assert ErrorKind.TRANSIENT is classify(aiohttp.web.HTTPServiceUnavailable()).kind


def test_a_member_of_a_group_decides() -> None:
    """Control flow is a caller's, which is the most severe; a time limit is a cancellation."""
    control = ExceptionGroup("g", [httpx_error(401), aiohttp.web.HTTPNotFound()])
    limit = ExceptionGroup(
        "g", [aiohttp.web.HTTPNotFound(), shaped("rq.timeouts.BaseTimeoutException")]
    )

    assert [CONTROL_FLOW, TIME_LIMIT] == [classify(control), classify(limit)]


def test_a_wrapper_that_says_nothing_is_looked_into() -> None:
    """The application's own error was raised from its framework's."""
    assert CONTROL_FLOW == classify(wrapped(aiohttp.web.HTTPNotFound(), 2))
    assert isinstance(wrapped(aiohttp.web.HTTPNotFound()), AppError)


def test_the_explanation_names_the_class_and_the_table() -> None:
    """Somebody who asks why is told which class it was, and where the table stands."""
    found = classify.explain(aiohttp.web.HTTPNotFound())
    beneath = classify.explain(asked_with(shaped("respx.models.AllMockedAssertionError")))

    assert "rules/frameworks.py" == found.rule == beneath.rule
    assert "aiohttp.HTTPNotFound" in found.because
    assert "respx.AllMockedAssertionError" in beneath.because


# --- the signals by which task queues tell ----------------------------------------------------


def test_billiards_own_signal_is_a_time_limit() -> None:
    """What the handler of a pool's soft time limit raises counts as one."""
    pool = pytest.importorskip("billiard.pool")
    before = signal.signal(signal.SIGUSR1, pool.soft_timeout_sighandler)
    try:
        with pytest.raises(
            Exception, match="SoftTimeLimitExceeded"
        ) as caught:  # the signal may come late
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert TIME_LIMIT == classify(caught.value)


def test_what_a_framework_makes_of_its_own_control_flow_says_more() -> None:
    """A model that has used up its tries has given an answer that does not fit."""
    exceptions = pytest.importorskip("pydantic_ai.exceptions")
    error = exceptions.UnexpectedModelBehavior("Exceeded maximum output retries (1)")
    error.__cause__ = exceptions.ModelRetry("age is no number")

    assert frameworks.CONTROL_FLOW.reason != classify(error).reason


@pytest.mark.parametrize("kind", ["next", "raise"])
def test_a_retry_that_the_application_asks_tenacity_for_is_its_own(kind: str) -> None:
    """No other target is asked, and nobody is blamed."""
    asked: list[str] = []

    @failover(["groq/a", "openai/b"], on_unknown=kind)
    def ask(target: Target) -> None:
        asked.append(target.key)
        raise tenacity.TryAgain

    with pytest.raises(tenacity.TryAgain):
        ask()
    assert ["groq/a"] == asked
