"""Lists: the pieces of a stream that somebody collected."""

from __future__ import annotations

from typing import Any, Final, cast

from resilient_llm.answers._reading import (
    MOST_CANDIDATES,
    field,
    has,
    is_dict,
    is_something,
    is_text,
    items,
    plain,
    word,
)
from resilient_llm.answers._responses import (
    SHAPES_OF_CHUNKS,
    Candidate,
    Look,
    blocked,
    hear_part,
    responses,
)
from resilient_llm.answers._verdicts import (
    BROKEN,
    INTERRUPTED,
    STOPS,
    body_with,
    error_in,
    is_nothing_else,
)

# Errors that arrive as an event of their own in AWS's streams.
_EXCEPTION: Final = "Exception"

_MOST_PIECES: Final = 512  # from either end of a stream


class _Stream:
    """What the pieces of a stream come to.

    Attributes:
        candidate: All that was said.
        knows: Whether a piece was of a known shape.
        ended: Whether a piece told the end; None if the shape has none that can be relied on.
        is_batch: Whether these are whole answers to several questions.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.candidate = look.add()
        self.knows = False
        self.ended: bool | None = False
        self.is_batch = False

    def end(self, stop: object) -> None:
        """Note why it stopped, if it says so."""
        if stop is not None and word(stop):
            self.ended = True
            stopped = STOPS.get(word(stop))
            if stopped is not None:
                self.candidate.stopped = stopped

    def take(self, piece: object) -> None:
        """Take what a whole answer would say into the candidate."""
        look = Look()
        is_known = any(shape(piece, look) for shape in SHAPES_OF_CHUNKS)
        if is_known or is_nothing_else(piece):
            look.error = look.error or error_in(piece)
        self.knows = self.knows or is_known or look.error is not None
        self.look.error = self.look.error or look.error
        for candidate in look.candidates:
            self.add(candidate)

    def add(self, candidate: Candidate) -> None:
        """Add what a piece said."""
        mine = self.candidate
        mine.says = mine.says or candidate.says
        mine.refuses = mine.refuses or candidate.refuses
        mine.stopped = mine.stopped or candidate.stopped


def look_at_list(pieces: list[Any], look: Look) -> None:
    if not pieces:  # where a stream is due: not one event came
        look.fault = BROKEN
        look.add()
        return
    if len(pieces) <= 2 * _MOST_PIECES:
        seen = pieces
    else:
        seen = [*pieces[:_MOST_PIECES], *pieces[-_MOST_PIECES:]]
    if all(isinstance(piece, str) for piece in seen):
        look.add().says = len(seen) < len(pieces) or any(is_text(piece) for piece in seen)
        return
    stream = _Stream(look)
    for piece in seen:
        _hear_piece(piece, stream)
    if stream.is_batch or not stream.knows:
        # Several answers, or something of somebody's own.
        look.candidates.clear()
        look.error = look.fault = None
        return
    if len(seen) < len(pieces):
        stream.candidate.says = True  # for all we know
    if stream.ended is False and look.error is None and look.fault is None:
        look.fault = INTERRUPTED if stream.candidate.says else BROKEN


def _hear_piece(piece: object, stream: _Stream) -> None:
    if isinstance(piece, (str, bytes, list, tuple, int, float)):
        return
    sort = field(piece, "type")
    sort = sort if isinstance(sort, str) else ""
    if sort.startswith("response."):
        _hear_response_event(piece, sort, stream)
    elif sort in _EVENTS:
        _hear_event(piece, sort, stream)
    elif is_dict(piece) and _hear_aws_event(cast("dict[str, Any]", piece), stream):
        pass
    else:
        _hear_chunk(piece, stream)


def _hear_chunk(piece: object, stream: _Stream) -> None:
    """A chunk that is shaped as a whole answer is."""
    stream.take(piece)
    choices = field(piece, "choices")
    for choice in items(choices, MOST_CANDIDATES):
        stream.end(field(choice, "finish_reason"))
        stream.is_batch = stream.is_batch or field(choice, "message") is not None
    if (
        choices is not None and not is_something(choices) and field(piece, "usage") is not None
    ):  # the last chunk, after the end
        stream.end("stop")
    for each in items(field(piece, "candidates"), MOST_CANDIDATES):
        stream.end(field(each, "finish_reason", "finishReason"))
    if blocked(piece):
        stream.end("safety")
    if field(piece, "done") is True:
        stream.end(field(piece, "done_reason") or "stop")
    if has(piece, "response_metadata") and has(piece, "content"):
        stream.is_batch = stream.is_batch or word(field(piece, "type")) == "ai"
        stream.ended = None  # not every integration of langchain says why it ended


# Events of anthropic's and cohere's streams.
_EVENTS: Final = frozenset(
    """message_start content_block_start content_block_delta content_block_stop message_delta message_stop ping error
    message-start content-start content-delta content-end tool-plan-delta tool-call-start tool-call-delta
    tool-call-end citation-start citation-end message-end debug""".split()
)


def _hear_event(piece: object, sort: str, stream: _Stream) -> None:
    candidate = stream.candidate
    delta = field(piece, "delta")
    if sort == "error":
        _hear_error_event(piece, stream)
        return
    stream.knows = True
    if sort == "content_block_start":
        hear_part(field(piece, "content_block"), candidate)
        if word(field(field(piece, "content_block"), "type")).endswith("tool_use"):
            candidate.says = True
    elif sort in ("tool-call-start", "tool-call-delta", "tool-call-end"):
        candidate.says = True
    elif sort == "content_block_delta":
        candidate.says = candidate.says or is_text(field(delta, "text"))
    elif sort in ("content-start", "content-delta"):
        content = field(field(delta, "message"), "content")
        candidate.says = candidate.says or is_text(field(content, "text"))
    elif sort in ("message_delta", "message-end"):
        stream.end(field(delta, "stop_reason", "finish_reason"))
    elif sort == "message_stop":
        stream.ended = True


def _hear_error_event(piece: object, stream: _Stream) -> None:
    """anthropic's error event has the error inside, that of openai's Responses is one itself."""
    error = error_in(piece)
    if error is None and has(piece, "sequence_number"):
        error = body_with(piece)
    stream.knows = stream.knows or error is not None
    stream.look.error = stream.look.error or error


def _hear_response_event(piece: object, sort: str, stream: _Stream) -> None:
    """An event of openai's Responses."""
    stream.knows = True
    if sort in ("response.completed", "response.incomplete", "response.failed"):
        stream.ended = True
        response = field(piece, "response")
        look = stream.look
        look.error = look.error or error_in(response)
        if sort == "response.failed":
            look.fault = BROKEN
        whole = Look()
        if responses(response, whole):
            for candidate in whole.candidates:
                stream.add(candidate)
    elif sort in ("response.error", "response.cancelled"):
        stream.ended = True
        stream.look.error = stream.look.error or error_in(piece)
    elif sort.startswith("response.refusal"):
        stream.candidate.refuses = True
    elif "reasoning" not in sort and (is_text(field(piece, "delta")) or "_call" in sort):
        stream.candidate.says = True


def _hear_aws_event(piece: dict[str, Any], stream: _Stream) -> bool:
    """An event of Bedrock's converse_stream; each is a dict of one."""
    name = next(iter(piece)) if len(piece) == 1 else ""
    event = piece.get(name)
    if type(name) is not str or not (name in _AWS_EVENTS or name.endswith(_EXCEPTION)):
        return False
    stream.knows = True
    if name.endswith(_EXCEPTION):
        stream.look.error = {
            "error": {"code": name[:64], "message": plain(field(event, "message"), 1)}
        }
    elif name == "contentBlockStart":
        stream.candidate.says = stream.candidate.says or is_something(field(event, "start"))
    elif name == "contentBlockDelta":
        hear_part(field(event, "delta"), stream.candidate)
    elif name == "messageStop":
        stream.ended = True
        stream.end(field(event, "stopReason"))
    return True


_AWS_EVENTS: Final = frozenset(
    (
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    )
)
