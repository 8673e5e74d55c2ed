"""`document`: the API as OpenAPI 3.1 describes it, with what this app allows."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

from resilient_llm import __version__
from resilient_llm._values.health import BenchedModel, State, TargetHealth
from resilient_llm._values.keys import LONGEST_KEY
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.money import LONGEST_NAME, UNITS, SpendReport
from resilient_llm._values.sharing import UNAVAILABLE
from resilient_llm._values.sharing_status import StoreStatus
from resilient_llm.admin._moments import later_than
from resilient_llm.admin._reading import LONGEST_REASON
from resilient_llm.admin._store import MOST_KEYS
from resilient_llm.admin._watch import TYPES

_BLANK: Final = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"


def _half(without: str) -> str:
    """Return a pattern of a part of a key: one character that is no blank, and any others."""
    return rf"[^{_CONTROL}{without}]*[^{_CONTROL}{_BLANK}{without}][^{_CONTROL}{without}]*"


# What `parse_key` allows. The end is written so that no newline may follow it.
_KEY: Final[dict[str, Any]] = {
    "type": "string",
    "description": "A key: `provider`, `provider/model` or `provider@account/model`.",
    "minLength": 1,
    "maxLength": LONGEST_KEY,
    "pattern": rf"^{_half('/@')}(@{_half('/')})?(/{_half('')})?$(?!\n)",
    "example": "groq/llama-3.3-70b-versatile",
}
_SPEND_KEY: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": LONGEST_NAME,
    "pattern": rf"^[^{_CONTROL}]*$(?!\n)",
    "example": "tenant-7",
}
_TO_COME: Final = timedelta(minutes=10)
"""How far ahead a moment is that is still to come when somebody has read the document."""
_MOMENT: Final = {"type": "string", "format": "date-time"}
_MAYBE_MOMENT: Final = {"type": ["string", "null"], "format": "date-time"}
_NUMBER: Final = {"type": "number", "minimum": 0}
_MAYBE_NUMBER: Final = {"type": ["number", "null"], "minimum": 0}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_FLAG: Final = {"type": "boolean"}
_KIND: Final = {"type": "string", "enum": [each.value for each in ErrorKind]}
_MAYBE_KIND: Final = {"type": ["string", "null"], "enum": [*_KIND["enum"], None]}
_STATUS: Final = {"type": "string", "enum": ["healthy", "degraded", "down"]}
_STATE: Final = {"type": "string", "enum": list(get_args(State))}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_BENCH: Final = {
    "model": _TEXT,
    "until": _MAYBE_MOMENT,
    "remaining": _MAYBE_NUMBER,
    "since": _MOMENT,
    "consecutive_failures": _COUNT,
    "manual": _FLAG,
    "reason": _TEXT,
    "kind": _MAYBE_KIND,
    "by": _TEXT,
    "source": {
        **_TEXT,
        "description": "`local`, or the name of the process that benched it for all that share a "
        "store.",
    },
}
_HEALTH: Final = {
    "status": _STATUS,
    "state": _STATE,
    "error_rate": {"type": "number", "minimum": 0, "maximum": 1},
    "latency": _MAYBE_NUMBER,
    "total": _COUNT,
    "errors": _COUNT,
    "consecutive_failures": _COUNT,
    "last_error": _maybe(_object(kind=_KIND, reason=_TEXT)),
    "checked_at": _MOMENT,
    "benched": _maybe(_reference("BenchedModel")),
    "first_content": _MAYBE_NUMBER,
}
_PROBE: Final = {
    **_object(ok={"type": ["boolean", "null"]}, reason=_TEXT, seconds=_NUMBER, at=_MOMENT),
    "description": "The last result of the key's health probe, if it has one. "
    "`ok` is null if the probe is broken.",
}
_SPEND: Final = {
    "budget": _TEXT,
    "of": _TEXT,
    "key": {"type": ["string", "null"], "description": "The key of `spend_key`."},
    "period_start": _MOMENT,
    "resets_at": _MOMENT,
    "spent": _NUMBER,
    "reserved": _NUMBER,
    "cap": {
        **_MAYBE_NUMBER,
        "description": "null where only the store is known, as in `resilient-llm serve`: each "
        "process enforces its own.",
    },
    "calls": _COUNT,
    "estimated": _COUNT,
}
_STORE: Final = {
    "url": {
        "type": ["string", "null"],
        "description": "Without a user and a password; null if nothing is shared.",
    },
    "connected": {**_FLAG, "description": "Whether it has answered within the last 10 s."},
    "last_sync_at": _MAYBE_MOMENT,
    "pending": {**_COUNT, "description": "Changes that it does not have yet."},
    "peers": {
        "type": "integer",
        "minimum": 1,
        "description": "Processes that were seen within 60 s, this one included.",
    },
    "rejected": {**_COUNT, "description": "Records that were not understood or not allowed."},
    "dropped": {**_COUNT, "description": "Changes that were given up, since too many waited."},
    "last_error": {"type": ["string", "null"], "description": "Class of the latest error."},
}
_SCHEMAS: Final = {
    "Store": _object(
        **{each.name: _STORE[each.name] for each in fields(StoreStatus)},
        unavailable={
            **_maybe(
                _object(
                    since=_MOMENT,
                    reason={"type": "string", "enum": list(UNAVAILABLE)},
                    type_name=_TEXT,
                )
            ),
            "description": "Since when and why it cannot be used, also if it can only be read.",
        },
        scope={
            "type": "string",
            "enum": ["process", "store"],
            "description": "`store` if this page shows a store alone, and no process.",
        },
    ),
    "SpendReport": _object(
        **{each.name: _SPEND[each.name] for each in fields(SpendReport)},
        unit={
            "type": "string",
            "enum": list(UNITS),
            "description": "What `spent`, `reserved` and `cap` are in.",
        },
        keys={
            **_COUNT,
            "description": "How many keys the budget has seen in the period; 1 if it does not "
            "count by key.",
        },
    ),
    "BenchedModel": _object(**{each.name: _BENCH[each.name] for each in fields(BenchedModel)}),
    "TargetHealth": _object(
        key=_TEXT, **{each.name: _HEALTH[each.name] for each in fields(TargetHealth)}
    ),
    "Samples": _object(
        every=_NUMBER,
        until=_MOMENT,
        calls=_list_of(_COUNT),
        errors=_list_of(_COUNT),
        benched=_list_of(_FLAG),
    ),
    "Chain": _object(
        functions=_list_of(_TEXT),
        written={
            **_list_of(_TEXT),
            "description": "The entries of the chain as they were written, names such as `@fast` "
            "included.",
        },
        profile={
            **_MAYBE_TEXT,
            "description": "The profile of the process, under which the names were looked up.",
        },
        targets=_list_of(
            _object(
                key=_TEXT,
                state=_STATE,
                live=_FLAG,
                penalty=_COUNT,
                benched=_maybe(_reference("BenchedModel")),
            )
        ),
    ),
    "Config": _object(
        source={
            **_MAYBE_TEXT,
            "description": "The path of the file as it was given, or `mapping`; null if none is "
            "loaded.",
        },
        loaded_at=_MAYBE_MOMENT,
        chains={**_list_of(_TEXT), "description": "Names of its chains and routes."},
        profiles={**_list_of(_TEXT), "description": "Names of its profiles."},
        shadowed={
            **_list_of(_TEXT),
            "description": "What it says without effect, since code says something else.",
        },
        profile={**_MAYBE_TEXT, "description": "The profile of the process."},
        problems={
            **_list_of(_TEXT),
            "description": "Why the last reload failed; empty if it did not.",
        },
        failed_at={**_MAYBE_MOMENT, "description": "When the last reload failed."},
    ),
    "Problem": _object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT),
}
_SCHEMAS["Target"] = _object(
    **_SCHEMAS["TargetHealth"]["properties"], samples=_reference("Samples")
)
for _schema in ("TargetHealth", "Target"):  # not among the fields that are always there
    _SCHEMAS[_schema]["properties"]["probe"] = _PROBE


def _wanted_bench() -> dict[str, Any]:
    soon = datetime.now(UTC) + _TO_COME
    return {
        "type": "object",
        "properties": {
            "model": _KEY,
            "seconds": {**_MAYBE_NUMBER, "description": "How long it lasts."},
            "until": {
                "type": ["string", "null"],
                # A moment of the past is refused, and no format says that.
                "pattern": later_than(soon),
                "description": "When it ends: a moment to come as RFC 3339 writes it, here in UTC; "
                "offsets are accepted, too. Excludes `seconds`.",
            },
            "reason": {**_TEXT, "maxLength": LONGEST_REASON},
        },
        "required": ["model"],
        "additionalProperties": False,
        "not": {
            "properties": {"seconds": {"type": "number"}, "until": {"type": "string"}},
            "required": ["seconds", "until"],
        },
    }


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


# OpenAPI 3.1 describes answers that end.
_DESCRIPTION: Final = (
    "Benches, health, chains, spending and events of one process; benches and spending of all "
    "that share its store.\n\n"
    "`GET api/events` is a stream of server-sent events: `id:` is a number, `data:` an object, "
    f"`event:` one of {', '.join(each.__name__ for each in TYPES)}, or `dropped` with the number "
    "of events that came too fast for the reader. `Last-Event-ID` begins after that event, "
    "and with 0 at the oldest of the last 1,000."
)
_EVERYWHERE: Final = (400, 401, 403, 405, 422, 500)
_MEANINGS: Final = {
    400: "Bad JSON, nested deeper than 20 levels, or a header that must come once comes again.",
    401: "The token is missing or wrong.",
    403: "Refused, read-only, a foreign Host, or a write of another site.",
    404: "Not benched.",
    405: "The path has no such method.",
    413: "The body is larger than 16 KiB.",
    415: "The body is not application/json.",
    422: "A wrong or unknown field or parameter.",
    500: "The application's own function `authorize` failed, and nothing was done.",
}


def _operation(
    name: str, summary: str, ok: dict[str, Any], *others: int, **more: Any
) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {**ok, **_problems(*others, *_EVERYWHERE)},
    }


def _get(name: str, summary: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return _operation(name, summary, {"200": _json(schema, summary)}, **more)


def _paths() -> dict[str, dict[str, Any]]:
    health = _object(status=_STATUS, targets=_list_of(_reference("TargetHealth")))
    expected = {
        "name": "expected",
        "in": "query",
        "description": "A key to show even if it has not been used yet.",
        "schema": _list_of(_KEY),
        "style": "form",
        "explode": True,
    }
    get_health = _get("health", "The status of this process.", health, parameters=[expected])
    get_health["responses"]["503"] = _json(
        health, "`down`: no chain has a target that may be called."
    )
    return {
        "/api/health": {"get": get_health},
        "/api/targets": {
            "get": _get("targets", "Every key with its health.", _list_of(_reference("Target")))
        },
        "/api/benches": {
            "get": _get("benches", "What is benched.", _list_of(_reference("BenchedModel"))),
            "post": _operation(
                "bench",
                "Bench a key by hand.",
                {"201": _json(_reference("BenchedModel"), "The bench.")},
                413,
                415,
                requestBody={
                    "required": True,
                    "content": {"application/json": {"schema": _reference("WantedBench")}},
                },
            ),
            "delete": _operation(
                "unbench",
                "End the bench of a key.",
                {"204": {"description": "It is benched no more."}},
                404,
                parameters=[{"name": "model", "in": "query", "required": True, "schema": _KEY}],
            ),
        },
        "/api/chains": {
            "get": _get(
                "chains",
                "The chains of living policies, targets in the order they are tried.",
                _list_of(_reference("Chain")),
            )
        },
        "/api/config": {
            "get": _get(
                "config",
                "The configuration file of this process, and whether its last reload failed.",
                _reference("Config"),
            )
        },
        "/api/spend": {
            "get": _get(
                "spend",
                "What each budget has spent and reserved in its present period; of one that counts "
                f"each key, the {MOST_KEYS} that used most.",
                _list_of(_reference("SpendReport")),
                parameters=[
                    {
                        "name": "key",
                        "in": "query",
                        "description": "The only key to show of budgets that count each key.",
                        "schema": _SPEND_KEY,
                    }
                ],
            )
        },
        "/api/store": {
            "get": _get(
                "store", "How the store is doing that processes share.", _reference("Store")
            )
        },
        "/api/openapi.json": {
            "get": _get("openapi", "This document.", {"type": "object"}),
        },
    }


def document(*, read_only: bool, server: str) -> dict[str, Any]:
    """Return the document.

    Args:
        read_only: Whether to leave out what writes.
        server: Path at which the app is mounted, without a slash at its end.
    """
    paths = _paths()
    if read_only:
        paths["/api/benches"] = {"get": paths["/api/benches"]["get"]}
    problem = {"application/problem+json": {"schema": _reference("Problem")}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "resilient_llm admin",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": server or "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**_SCHEMAS, "WantedBench": _wanted_bench()},
            "responses": {
                str(status): {"description": meaning, "content": problem}
                for status, meaning in _MEANINGS.items()
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
