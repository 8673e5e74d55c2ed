"""`schema`, the JSON schema of a configuration file, made of the tables that the reader checks by.

What the reader accepts the schema accepts. It cannot say everything: what names are defined, which
options go together, or whether a text is a chain, is for the reader alone.
"""

from __future__ import annotations

from typing import Any, Final

from resilient_llm.config._chains import MOST_ENTRIES
from resilient_llm.config._default_options import PROFILE, SETTINGS
from resilient_llm.config._environment import VARIABLE
from resilient_llm.config._kinds import table_schema
from resilient_llm.config._options import (
    BREAKER,
    BUDGET,
    CONDITIONS,
    LIMIT,
    MESSAGES,
    PRICE_OF_KEY,
    STATE,
    TARGET,
)

_NAME: Final = {"pattern": r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$"}
_CHAIN: Final = {"$ref": "#/$defs/chain"}


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, draft 2020-12."""
    sections: dict[str, Any] = {
        "$schema": {"description": "The schema of the file, for editors; it is not read."},
        "settings": {
            "description": "Process-wide defaults, as `configure` takes them",
            **table_schema(SETTINGS),
        },
        "breakers": _keyed(
            "Options of breakers, by provider, target or '*'", table_schema(BREAKER)
        ),
        "targets": _keyed(
            "Options of targets that are written as text, by 'provider/model'", table_schema(TARGET)
        ),
        "chains": _named("Chains by name", _CHAIN),
        "profiles": _named("Profiles by name", _profile()),
        "routes": _named("Routes by name; chains and routes share names", _route()),
        "limits": _keyed("Limits by provider, target, 'tag:…' or '*'", table_schema(LIMIT)),
        "budgets": {
            "description": "Caps on spending",
            "type": "array",
            "items": table_schema(BUDGET),
        },
        "prices": _keyed("Prices by target, provider or '*'", PRICE_OF_KEY.schema),
        "state": {
            "description": "The store that processes share",
            **table_schema(STATE),
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of resilient_llm",
        "description": "${NAME} and ${NAME:-default} stand for variables of the environment.",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
        "minProperties": 1,
        "$defs": {
            "variable": {
                "description": "One variable, which may be a number or a boolean",
                "type": "string",
                "pattern": rf"^\$\{{{VARIABLE}(:-[^{{}}]*)?\}}$",
            },
            "with_variable": {
                "description": "A text with a variable in it",
                "type": "string",
                "pattern": rf"\$\{{{VARIABLE}(:-[^{{}}]*)?\}}",
            },
            "chain": {
                "description": "'provider/model', '@name', a comma-separated text of these, or a "
                "list of them",
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 1,
                        "maxItems": MOST_ENTRIES,
                    },
                ],
            },
        },
    }


def _keyed(description: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": entry,
    }


def _named(description: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "propertyNames": _NAME,
        "additionalProperties": entry,
    }


def _profile() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "chains": _named("Chains that it replaces", _CHAIN),
            "settings": {
                "description": "Options of `failover` that it replaces",
                **table_schema(PROFILE),
            },
        },
        "additionalProperties": False,
    }


def _route() -> dict[str, Any]:
    rule = table_schema(CONDITIONS, required=("chain",), minProperties=2)
    rule["properties"] = {
        "chain": {"description": "The chain that it chooses", **_CHAIN},
        **rule["properties"],
    }
    return {
        "type": "object",
        "properties": {
            "otherwise": {"description": "The chain if no rule matches", **_CHAIN},
            "messages": {"description": MESSAGES.doc, **MESSAGES.schema},
            "rules": {
                "description": "The first that matches chooses",
                "type": "array",
                "items": rule,
            },
        },
        "required": ["otherwise"],
        "additionalProperties": False,
    }
