"""The attributes of the spans that `otel` makes: the one table, of which code and docs make use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Attribute(NamedTuple):
    """One attribute of the spans.

    Attributes:
        name: Its name.
        on: The spans that may have it.
        type: Type of its value. Moments are RFC 3339 text.
        meaning: What it means, and when it is there.
    """

    name: str
    on: Literal["attempt", "call", "both"]
    type: Literal["text", "int", "float", "bool"]
    meaning: str


OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
MODEL: Final = "gen_ai.request.model"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ERROR_TYPE: Final = "error.type"
TARGET: Final = "resilient_llm.target"
ATTEMPT: Final = "resilient_llm.attempt"
CHAIN_POSITION: Final = "resilient_llm.chain_position"
OUTCOME: Final = "resilient_llm.outcome"
REASON: Final = "resilient_llm.reason"
RETRY_AFTER: Final = "resilient_llm.retry_after"
BENCHED_UNTIL: Final = "resilient_llm.benched_until"
SPEND_USD: Final = "resilient_llm.spend_usd"
SPEND_ESTIMATED: Final = "resilient_llm.spend_estimated"
CALL_ID: Final = "resilient_llm.call_id"
SERVED_BY: Final = "resilient_llm.served_by"
ATTEMPTS: Final = "resilient_llm.attempts"
LOOP_TOOL: Final = "resilient_llm.tool_loop.tool"
LOOP_REPEATS: Final = "resilient_llm.tool_loop.repeats"

ATTRIBUTES: Final = (
    Attribute(OPERATION, "attempt", "text", "`chat`"),
    Attribute(PROVIDER, "attempt", "text", "provider of the target, as OpenTelemetry names it"),
    Attribute(MODEL, "attempt", "text", "model of the target"),
    Attribute(FIRST_CHUNK, "attempt", "float", "of a stream: seconds to its first content"),
    Attribute(INPUT_TOKENS, "attempt", "int", "tokens of the request, if the answer reports them"),
    Attribute(OUTPUT_TOKENS, "attempt", "int", "tokens of the answer, if it reports them"),
    Attribute(ERROR_TYPE, "attempt", "text", "of a failure: HTTP status, else class of the error"),
    Attribute(TARGET, "attempt", "text", "key of the target, with its account"),
    Attribute(ATTEMPT, "attempt", "int", "number of the attempt on this target, from 1"),
    Attribute(CHAIN_POSITION, "attempt", "int", "place of the target in the chain, from 0"),
    Attribute(OUTCOME, "attempt", "text", "`ok`, a kind of error such as `transient`, `cancelled`"),
    Attribute(REASON, "attempt", "text", "unless the outcome is `ok`: why, as in the event"),
    Attribute(RETRY_AFTER, "attempt", "float", "of a failure: seconds the provider asked to wait"),
    Attribute(BENCHED_UNTIL, "attempt", "text", "of a failure: when the target's bench ends"),
    Attribute(SPEND_USD, "attempt", "float", "while spending is booked: USD, if it has a price"),
    Attribute(SPEND_ESTIMATED, "attempt", "bool", "with it: whether its tokens are estimated"),
    Attribute(CALL_ID, "both", "text", "name of the call, as in events, logs and `Trace`"),
    Attribute(OUTCOME, "call", "text", "`ok`, `failed` or `cancelled`"),
    Attribute(SERVED_BY, "call", "text", "key of the target that answered"),
    Attribute(ATTEMPTS, "call", "int", "number of attempts that were made"),
    Attribute(LOOP_TOOL, "call", "text", "of a tool loop: name of the tool, or `?`"),
    Attribute(LOOP_REPEATS, "call", "int", "of a tool loop: equal calls in a row"),
)
"""Every attribute of the spans; the page about traces shows this table."""

PROVIDERS: Final[Mapping[str, str]] = {
    "google": "gcp.gemini",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""``{provider: its name in gen_ai.provider.name}``, where the two differ."""
