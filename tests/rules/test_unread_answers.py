"""Plain errors of Python that a client raises of an answer are the provider's, all others bugs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from resilient_llm import Target, Verdict, classify, failover
from tests.support.errors import raised
from tests.support.ways import GROQ, OPENAI

MESSAGES: Any = [{"role": "user", "content": "Will it rain?"}]
FAILED = {"error": {"message": "Provider returned error", "code": 502}}


class Weather(pydantic.BaseModel):
    """What the caller asks for."""

    city: str


def transport(answer: Any, kind: str = "application/json") -> httpx2.Client:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return httpx2.Client(
        transport=httpx2.MockTransport(
            lambda _: httpx2.Response(200, text=text, headers={"content-type": kind})
        )
    )


def openai_client(answer: Any, kind: str = "application/json") -> openai.OpenAI:
    return openai.OpenAI(api_key="k", max_retries=0, http_client=transport(answer, kind))


def verdict_on(run: Callable[[], Any]) -> Verdict:
    return classify(raised(run))


def client_code(package: str, source: str, **names: Any) -> dict[str, Any]:
    """Return functions as a client's module has them; its name is all that is looked at."""
    module: dict[str, Any] = {"__name__": f"{package}.chat", **names}
    exec(source, module)  # noqa: S102  # see above
    return module


# --- answers that lack what is expected -----------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [FAILED, {}, {"choices": None}, {"choices": [{"message": None}]}]
)
def test_openai_parses_an_answer_without_what_it_expects(answer: Any) -> None:
    """``parse`` of openai fails in its own code, which is a broken answer."""
    found = verdict_on(
        lambda: openai_client(answer).chat.completions.parse(
            model="m", messages=MESSAGES, response_format=Weather
        )
    )

    assert ("transient", "invalid_response") == (found.kind, found.reason)


def test_openai_parses_a_stream_without_content() -> None:
    """So does an empty stream that openai gathers."""

    def run() -> Any:
        client = openai_client("data: [DONE]\n\n", "text/event-stream")
        with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
            return stream.get_final_completion()

    found = verdict_on(run)

    assert ("transient", "invalid_response") == (found.kind, found.reason)


@pytest.mark.parametrize("answer", [FAILED, {"content": None}])
def test_anthropic_parses_an_answer_without_content(answer: Any) -> None:
    """The SDK of another provider reads its answers in its own modules."""
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(api_key="k", max_retries=0, http_client=transport(answer))

    found = verdict_on(
        lambda: client.messages.parse(
            model="m", max_tokens=1, messages=MESSAGES, output_format=Weather
        )
    )

    assert ("transient", "invalid_response") == (found.kind, found.reason)


@pytest.mark.parametrize("package", ["mistralai", "groq", "pydantic_ai", "langchain_groq"])
@pytest.mark.parametrize(
    "source",
    [
        "def read(response={}):\n    return response['choices']\n",
        "def read(raw_response=[]):\n    return raw_response[0]\n",
        "def read(*, chat_completion=()):\n    return first(chat_completion)\n"
        "def first(of):\n    return of[0]\n",
        "def read(self=None):\n    response = object()\n    return response.choices\n",
        "def read(event='x'):\n    assert event == 'y'\n",
        "def read(response=None):\n    return response.choices\n",
        "def read(chunk=''):\n    raise ValueError('Unexpected response type')\n",
    ],
)
def test_any_client_that_fails_on_an_answer(package: str, source: str) -> None:
    """What counts is that code of a client held an answer, whichever client it is."""
    found = verdict_on(client_code(package, source)["read"])

    assert ("transient", "invalid_response") == (found.kind, found.reason)


def test_the_next_target_answers() -> None:
    """A body without choices moves on, and the target is charged."""
    good = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": '{"city":"Rome"}'}}]
    }
    answers = {GROQ: FAILED, OPENAI: good}

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> Any:
        return openai_client(answers[target.key]).chat.completions.parse(
            model="m", messages=MESSAGES, response_format=Weather
        )

    assert Weather(city="Rome") == ask().choices[0].message.parsed


# --- what stays a bug of the caller ---------------------------------------------------------------


def _wrong_format() -> Any:
    wrong: Any = 3
    return openai_client({}).chat.completions.parse(
        model="m", messages=MESSAGES, response_format=wrong
    )


def _own_reading() -> Any:
    response: Any = openai_client(FAILED).chat.completions.create(model="m", messages=MESSAGES)
    return response.choices[0].message.content


def _called_back() -> Any:
    def hook(response: Any) -> None:
        raise ValueError("server_error: mine")

    return client_code("httpx", "def read(response=1):\n    return hook(response)\n", hook=hook)[
        "read"
    ]()


def _client_below_a_callback() -> Any:
    inner = client_code("openai", "def create(model):\n    return model['name']\n")["create"]
    return client_code(
        "httpx", "def read(response=1):\n    return hook(response)\n", hook=lambda _: inner({})
    )["read"]()


BUGS: dict[str, Callable[[], Any]] = {
    "a wrong keyword": lambda: openai_client({}).chat.completions.create(wrong=1),  # type: ignore[call-overload]
    "a missing argument": lambda: openai_client({}).chat.completions.create(model="m"),  # type: ignore[call-overload]
    "a wrong format": _wrong_format,
    "the caller's reading of an answer": _own_reading,
    "a hook of the caller": _called_back,
    "a client with wrong arguments in a hook": _client_below_a_callback,
    "before there is an answer": client_code(
        "openai",
        "def create(response_format={}, response=None):\n    return response_format['a']\n",
    )["create"],
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_the_caller_stays_one(name: str) -> None:
    """Wrong arguments, and what the caller's own code does with an answer."""
    assert "caller_bug" == verdict_on(BUGS[name]).kind


# --- error objects in a text ----------------------------------------------------------------------

OBJECT = "ResponseError(code='{}', message='The model failed, try again in 20s')"


def failing(message: Any, package: str = "langchain_openai") -> Callable[[], Any]:
    source = "def read(chunk=1):\n    raise ValueError(message)\n"
    read: Callable[[], Any] = client_code(package, source, message=message)["read"]
    return read


@pytest.mark.parametrize("form", [OBJECT, "{}: The model failed, try again in 20s"])
@pytest.mark.parametrize(
    ("code", "kind", "reason", "wait"),
    [
        ("server_error", "transient", "server_error", 20.0),
        ("rate_limit_exceeded", "rate_limited", "rate_limit", 20.0),
        ("insufficient_quota", "auth_dead", "insufficient_quota", None),
        ("context_length_exceeded", "request_specific", "context_length_exceeded", None),
        ("invalid_prompt", "request_specific", "content_policy", None),
    ],
)
def test_the_code_in_a_clients_text(
    form: str, code: str, kind: str, reason: str, wait: float | None
) -> None:
    """The provider's error object in the text of a client's ValueError is the provider's error."""
    found = verdict_on(failing(form.format(code)))

    assert (kind, reason, wait) == (found.kind, found.reason, found.retry_after)


def test_an_error_object_as_it_is() -> None:
    """langchain-openai gives the object itself where it reads a whole answer."""
    from openai.types.responses import ResponseError

    error = ResponseError(code="rate_limit_exceeded", message="Try again in 20s")

    assert "rate_limited" == verdict_on(failing(error)).kind


def test_an_unknown_code_harms_nobody() -> None:
    """As a bare error in a stream with a code that no rule recognises."""
    found = verdict_on(failing(OBJECT.format("brand_new")))

    assert ("transient", "stream_error", False) == (found.kind, found.reason, found.harms_health)


def test_an_error_event_without_a_code() -> None:
    """It still fails while a client reads an answer."""
    assert "transient" == verdict_on(failing("boom")).kind


@pytest.mark.parametrize("message", [OBJECT.format("server_error"), "server_error: mine", "boom"])
def test_the_same_text_of_the_caller_is_a_bug(message: str) -> None:
    """A ValueError of the caller's own code is one, whatever its text."""

    def own() -> None:
        raise ValueError(message)

    assert "caller_bug" == verdict_on(own).kind


def test_what_is_explained() -> None:
    """Explanations name what was recognised, and not what the text holds."""
    unreadable = str(classify.explain(raised(failing("boom, a secret"))))
    unknown = str(classify.explain(raised(failing(OBJECT.format("brand_new")))))

    assert "a client could not read the answer: ValueError" in unreadable
    assert "a client gave the provider's error as the text of: ValueError" in unknown
    assert "secret" not in unreadable


# --- langchain-openai ----------------------------------------------------------------------------


def events(*items: dict[str, Any]) -> str:
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in items)


def failed_events(code: str) -> str:
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [],
        "status": "failed", "error": {"code": code, "message": "no"}, "tools": [],
        "parallel_tool_calls": True, "tool_choice": "auto",
    }  # fmt: skip
    return events({"type": "response.failed", "sequence_number": 0, "response": response})


def error_events(code: str) -> str:
    return events(
        {"type": "error", "sequence_number": 0, "code": code, "message": "no", "param": None}
    )


@pytest.fixture
def chat_openai() -> Callable[..., Any]:
    """Give a function that makes a model of langchain-openai with an answer of every call."""
    library = pytest.importorskip("langchain_openai")

    def make(answer: Any, kind: str = "application/json", **fields: Any) -> Any:
        client = openai_client(answer, kind)
        return library.ChatOpenAI(
            model="m", api_key="k", max_retries=0, root_client=client,
            client=client.chat.completions, **fields,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("form", [failed_events, error_events])
@pytest.mark.parametrize(
    ("code", "kind"), [("server_error", "transient"), ("rate_limit_exceeded", "rate_limited")]
)
def test_langchain_streams_a_failed_response(
    chat_openai: Callable[..., Any], form: Callable[[str], str], code: str, kind: str
) -> None:
    """Both events of the Responses API are the provider's error, by their code."""
    model = chat_openai(form(code), "text/event-stream", use_responses_api=True)

    assert kind == verdict_on(lambda: list(model.stream("Hi"))).kind


ANSWERS: dict[str, tuple[Any, str]] = {
    "a page": ("<html>log in</html>", "text/html"),
    "no choices": ({"id": "1"}, "application/json"),
    "null choices": ({"id": "1", "choices": None}, "application/json"),
    "empty choices": ({"id": "1", "choices": []}, "application/json"),
    "no message": ({"id": "1", "choices": [{"index": 0, "message": None}]}, "application/json"),
    "a list": ([], "application/json"),
    "null": ("null", "application/json"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_langchain_reads_an_answer_without_a_message(
    chat_openai: Callable[..., Any], name: str
) -> None:
    """Whatever LangChain raises of such an answer, the server is out of order."""
    model = chat_openai(*ANSWERS[name])

    found = verdict_on(lambda: model.invoke("Hi"))

    assert ("transient", "invalid_response") == (found.kind, found.reason)


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "empty choices"])
def test_langchain_parses_an_answer_without_a_message(
    chat_openai: Callable[..., Any], name: str, include_raw: bool
) -> None:
    """So with structured output, where LangChain adds the response to the error of openai."""
    model = chat_openai(*ANSWERS[name]).with_structured_output(Weather, include_raw=include_raw)

    found = verdict_on(lambda: model.invoke("Hi"))

    assert ("transient", "invalid_response") == (found.kind, found.reason)


def test_an_error_with_a_response() -> None:
    """A client may add the response to an error; one of the caller's own code stays a bug."""

    def own() -> None:
        error: Any = TypeError("mine")
        error.response = httpx2.Response(200)
        raise error

    source = "def read(response):\n    error = TypeError()\n    error.response = response\n    raise error\n"
    theirs = client_code("langchain_openai", source)["read"]

    assert "caller_bug" == verdict_on(own).kind
    assert "invalid_response" == verdict_on(lambda: theirs(httpx2.Response(200))).reason


@pytest.mark.parametrize("answer", ["", "data: [DONE]\n\n", "data: {}\n\ndata: [DONE]\n\n"])
def test_langchain_streams_structured_output_without_content(
    chat_openai: Callable[..., Any], answer: str
) -> None:
    """An empty stream of structured output ends in an assertion of openai."""
    model = chat_openai(answer, "text/event-stream").with_structured_output(Weather)

    found = verdict_on(lambda: list(model.stream("Hi")))

    assert ("transient", "invalid_response") == (found.kind, found.reason)
