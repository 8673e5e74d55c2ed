"""Exceptions of the application's own frameworks, which no provider sent.

A web framework's exception says what *our* server answers, a task queue's retry or a graph's
interrupt is control flow, and a queue's time limit ends the whole task. The first two leave a
call at once and count nowhere; the third counts like a cancellation from outside.

One table: a line has the module, the classes and where they were read or are documented. A
class is known by its module, or a folder above it, and its name; subclasses by their MRO.
Nothing is imported. The classes of HTTP clients that live beside these (``aiohttp.ClientError``,
``tornado.httpclient``) are not in the table: their status is a provider's.
"""

from __future__ import annotations

from typing import Any, Final

from resilient_llm._values.built_in import class_name
from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

CONTROL_FLOW: Final = Verdict(ErrorKind.CALLER_BUG, "control_flow")
TIME_LIMIT: Final = Verdict(ErrorKind.CANCELLED, "time_limit")
CANCELLED: Final = Verdict(ErrorKind.CANCELLED)

Line = tuple[str, str, str]
"""``(module or package, names of classes, source)``."""

# What the application's own server answers, and clients of that server which have gone.
_SERVERS: Final[tuple[Line, ...]] = (
    ("starlette.exceptions", "HTTPException WebSocketException", "starlette 1.10"),
    ("starlette", "ClientDisconnect WebSocketDisconnect MultiPartException", "starlette 1.10"),
    ("fastapi.exceptions", "HTTPException ValidationException", "fastapi 0.165"),
    ("werkzeug", "HTTPException RoutingException", "werkzeug 3.1; also flask's and quart's"),
    ("quart", "ClientDisconnectedError", "quart 0.23"),
    ("apiflask.exceptions", "HTTPError", "apiflask 3.1"),
    ("django.http", "Http404 MultiPartParserError UnreadablePostError", "django 6.1"),
    (
        "django.core.exceptions",
        "PermissionDenied SuspiciousOperation BadRequest RequestAborted",
        "django 6.1",
    ),
    ("rest_framework.exceptions", "APIException", "djangorestframework 3.18"),
    ("ninja.errors", "HttpError ValidationError", "django-ninja 1.7"),
    (
        "channels.exceptions",
        "StopConsumer AcceptConnection DenyConnection RequestAborted",
        "channels 4.3",
    ),
    ("litestar.exceptions", "HTTPException WebSocketException", "litestar 2.25"),
    ("aiohttp.web_exceptions", "HTTPException", "aiohttp 3.14"),
    ("aiohttp.web_protocol", "RequestPayloadError PayloadAccessError", "aiohttp 3.14"),
    ("sanic.exceptions", "SanicException", "sanic 25.12"),
    ("tornado.web", "HTTPError Finish", "tornado 6.6"),
    ("tornado.iostream", "StreamClosedError", "tornado 6.6; a browser that has gone"),
    ("tornado.websocket", "WebSocketClosedError", "tornado 6.6; a browser that has gone"),
    ("falcon", "HTTPError HTTPStatus WebSocketDisconnected", "falcon 4.4"),
    ("bottle", "HTTPResponse RouteReset", "bottle 0.13"),
    ("pyramid.httpexceptions", "HTTPException", "pyramid 2.1"),
    ("webob.exc", "HTTPException", "webob 1.8"),
    ("cherrypy", "HTTPError HTTPRedirect InternalRedirect", "cherrypy 18.10"),
    ("blacksheep.exceptions", "HTTPException", "blacksheep 2.6"),
    ("grpc._cython.cygrpc", "AbortError", "grpcio 1.85; context.abort() of a servicer"),
    ("uvicorn.protocols.utils", "ClientDisconnected", "uvicorn 0.54"),
    ("sse_starlette", "SendTimeoutError", "sse-starlette 3.7"),
    ("gradio.exceptions", "Error", "gradio 6.31"),
    ("streamlit.runtime", "ScriptControlException", "streamlit 1.67; st.stop(), st.rerun()"),
    ("click.exceptions", "Exit Abort ClickException", "click 8.5; also typer's"),
)
_TASK_QUEUES: Final[tuple[Line, ...]] = (
    (
        "celery.exceptions",
        "TaskPredicate MaxRetriesExceededError TaskRevokedError",
        "https://docs.celeryq.dev/en/stable/reference/celery.exceptions.html",
    ),
    ("dramatiq", "Retry RateLimitExceeded SkipMessage", "dramatiq 2.2"),
    (
        "huey.exceptions",
        "RetryTask CancelExecution TaskLockedException RateLimitExceeded",
        "huey 3.5",
    ),
    ("arq.worker", "Retry RetryJob", "arq 0.28"),
    ("taskiq.exceptions", "NoResultError TaskRejectedError", "taskiq 0.13"),
    ("procrastinate.exceptions", "JobRetry JobAborted", "procrastinate 3.10"),
    (
        "airflow",
        "AirflowSkipException AirflowFailException AirflowRescheduleException TaskDeferred",
        "apache-airflow-task-sdk 1.3",
    ),
    ("prefect.exceptions", "PrefectSignal CancelledRun", "prefect 3.9"),
    ("tenacity", "TryAgain", "https://tenacity.readthedocs.io/en/latest/#other-control-flow"),
    ("dagster", "RetryRequested Failure", "dagster 1.13"),
    ("temporalio", "ContinueAsNewError _CompleteAsyncError ApplicationError", "temporalio 1.35"),
    ("distributed.exceptions", "Reschedule", "distributed 2026.8"),
    (
        "locust.exception",
        "StopUser InterruptTaskSet RescheduleTask RescheduleTaskImmediately",
        "locust 2.47",
    ),
)
_AGENTS: Final[tuple[Line, ...]] = (
    ("langgraph.errors", "GraphBubbleUp", "langgraph 1.2; interrupt(), Command(graph=PARENT)"),
    ("langchain_core.tools", "ToolException", "langchain-core 1.8"),
    ("mcp.shared.exceptions", "UrlElicitationRequiredError", "mcp 1.24"),
    (
        "pydantic_ai.exceptions",
        "ModelRetry CallDeferred ApprovalRequired ToolFailed ToolRetryError ToolFailedError "
        "SkipModelRequest RetryModelRequest SkipToolValidation SkipToolExecution "
        "UsageLimitExceeded ConcurrencyLimitExceeded",
        "pydantic-ai 2.68",
    ),
    (
        "agents.exceptions",
        "MaxTurnsExceeded InputGuardrailTripwireTriggered OutputGuardrailTripwireTriggered "
        "ToolInputGuardrailTripwireTriggered ToolOutputGuardrailTripwireTriggered",
        "openai-agents 0.24",
    ),
    ("agno.exceptions", "AgentRunException InputCheckError OutputCheckError", "agno 3.1"),
)
_TESTS: Final[tuple[Line, ...]] = (
    ("unittest.case", "SkipTest", "https://docs.python.org/3/library/unittest.html"),
    ("_pytest.outcomes", "OutcomeException Exit", "pytest 9.2"),
    ("hypothesis.errors", "UnsatisfiedAssumption StopTest", "hypothesis 6.170"),
    (
        "vcr.errors",
        "CannotOverwriteExistingCassetteException UnhandledHTTPRequestError",
        "vcrpy 9.4",
    ),
    ("respx.models", "AllMockedAssertionError", "respx 0.23"),
    ("pytest_socket", "SocketBlockedError SocketConnectBlockedError", "pytest-socket 0.8"),
)
_TIME_LIMITS: Final[tuple[Line, ...]] = (
    ("billiard", "SoftTimeLimitExceeded TimeLimitExceeded", "billiard 4.3; celery's"),
    ("rq.timeouts", "BaseTimeoutException", "rq 3.0"),
    ("dramatiq", "TimeLimitExceeded", "dramatiq 2.2"),
    ("huey.exceptions", "TaskTimeout", "huey 3.5"),
    ("airflow", "AirflowTaskTimeout", "apache-airflow-task-sdk 1.3"),
    ("gevent", "Timeout", "https://www.gevent.org/api/gevent.timeout.html"),
    ("eventlet", "Timeout", "eventlet 0.41"),
)
_CANCELLATIONS: Final[tuple[Line, ...]] = (
    ("dramatiq", "Interrupt", "dramatiq 2.2; Shutdown"),
    ("rq.exceptions", "ShutDownImminentException", "rq 3.0"),
    ("greenlet", "GreenletExit", "greenlet 3.5; gevent's kill()"),
    ("airflow", "AirflowTaskTerminated", "apache-airflow-task-sdk 1.3"),
    ("prefect.exceptions", "ExternalSignal", "prefect 3.9"),
    ("dagster", "DagsterExecutionInterruptedError", "dagster 1.13"),
    ("temporalio.exceptions", "CancelledError", "temporalio 1.35"),
    ("ray.exceptions", "TaskCancelledError", "ray 2.60"),
    ("pydantic_ai.exceptions", "RunCancelled", "pydantic-ai 2.68; RunContext.cancel()"),
    ("agno.exceptions", "RunCancelledException", "agno 3.1"),
)
# They inherit from a class of the table, and mean what any client's error of that sort means.
_OF_CLIENTS: Final[tuple[Line, ...]] = (
    ("blacksheep.exceptions", "FailedRequestError", "blacksheep 2.6; its HTTP client's"),
    ("pydantic_ai.exceptions", "RunTimedOut", "pydantic-ai 2.68; a timeout of one agent's run"),
)

TABLE: Final[tuple[tuple[Line, Verdict | None], ...]] = (
    *((line, CONTROL_FLOW) for line in (*_SERVERS, *_TASK_QUEUES, *_AGENTS, *_TESTS)),
    *((line, TIME_LIMIT) for line in _TIME_LIMITS),
    *((line, CANCELLED) for line in _CANCELLATIONS),
    *((line, None) for line in _OF_CLIENTS),
)


def _by_name() -> dict[str, list[tuple[str, Verdict | None]]]:
    found: dict[str, list[tuple[str, Verdict | None]]] = {}
    for (module, names, _), verdict in TABLE:
        for name in names.split():
            found.setdefault(name, []).append((module, verdict))
    return found


_BY_NAME: Final = _by_name()
"""``{name of a class: [(module or package, verdict)]}``."""


def _find_verdict(cls: type) -> Verdict | None:
    try:
        for base in cls.__mro__:
            for package, verdict in _BY_NAME.get(class_name(base), ()):
                module: Any = base.__module__  # a class may set it to anything
                if type(module) is str and f"{module}.".startswith(f"{package}."):
                    return verdict
    except Exception:  # noqa: BLE001, S110  # a metaclass may do anything
        pass
    return None


verdict_of: Final = ClassCache(_find_verdict)
"""``verdict_of[cls]``: what an exception of this class means; None if no line has it."""
