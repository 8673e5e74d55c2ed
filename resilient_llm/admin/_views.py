"""What the API shows of this process: health, targets, benches, chains, spending and the store.

As plain values.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from resilient_llm._api.benches import bench_model, health, list_benched, unbench_model
from resilient_llm._api.sharing import store_status
from resilient_llm._runtime.chains import living_chains
from resilient_llm._runtime.probing import last_probes
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.health import BenchedModel
from resilient_llm._values.target import normal_key
from resilient_llm.admin._plain import plain
from resilient_llm.admin._problems import Problem
from resilient_llm.admin._store import MOST_KEYS, spend_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilient_llm._runtime.configuration import InForce
    from resilient_llm._runtime.probing import LastProbe
    from resilient_llm._values.events import StoreUnavailable
    from resilient_llm._values.health import TargetHealth
    from resilient_llm._values.target import Target
    from resilient_llm.admin._reading import WantedBench
    from resilient_llm.admin._samples import Samples


def target_list(samples: Samples) -> list[dict[str, Any]]:
    """Return every key that was used or is in a chain, with its health and its samples."""
    in_chains = {target.key for chain in living_chains() for target in chain.targets}
    return [{**each, "samples": samples.of(each["key"])} for each in _targets(health(in_chains))]


def overall(expected: Iterable[str]) -> dict[str, Any]:
    """Return the status of the process, and every key with its health."""
    found = health(expected)
    chains = living_chains()
    if chains and not any(_may_be_called(each) for chain in chains for each in chain.targets):
        status = "down"
    elif any(each.status != "healthy" for each in found.values()):
        status = "degraded"
    else:
        status = "healthy"
    return {"status": status, "targets": _targets(found)}


def bench_list() -> list[dict[str, Any]]:
    """Return what is benched, sorted by key."""
    return [plain(each) for each in list_benched()]


def chain_list() -> list[dict[str, Any]]:
    """Return the chains of living policies, each with its targets in the order they are tried."""
    benched = {each["model"]: each for each in bench_list()}
    profile = runtime.in_force.profile
    return [
        {
            "functions": chain.functions,
            "written": chain.written,
            "profile": profile,
            "targets": [
                {
                    "key": target.key,
                    "state": runtime.registry.look(target.key).state(runtime.clock()),
                    "live": _may_be_called(target),
                    "penalty": chain.penalties.get(target.key, 0),
                    "benched": benched.get(target.key) or benched.get(target.provider_key),
                }
                for target in chain.targets
            ],
        }
        for chain in living_chains()
    ]


def config_view() -> dict[str, Any]:
    """Return the configuration file of this process, and why its last reload failed."""
    in_force = runtime.in_force
    config, problems, failed_at = _file_status(in_force)
    nothing = {"source": None, "loaded_at": None, "chains": (), "profiles": (), "shadowed": ()}
    shown: dict[str, Any] = nothing if config is None else plain(config)
    return {
        **shown,
        "profile": in_force.profile,
        "problems": [str(each) for each in problems],
        "failed_at": plain(failed_at),
    }


def _file_status(in_force: InForce) -> tuple[Any, tuple[Any, ...], Any]:
    if in_force.file is None:  # what reads files is loaded by those who have one
        return None, (), None
    from resilient_llm.config._state import status

    return status()


def spend_list(key: str | None) -> list[dict[str, Any]]:
    """Return what each budget has spent, sorted by name, the keys of a budget by what they used.

    Args:
        key: The only key to show of budgets that count by key; None for the fullest.
    """
    rows = runtime.ledger.fullest(runtime.wall(), MOST_KEYS, key)
    return [{**plain(each.report), "unit": each.unit, "keys": each.keys} for each in rows]


def store_spend_list(key: str | None) -> list[dict[str, Any]]:
    """Return what each budget of the store has spent, for a process that has none; no caps."""
    sharing: Any = runtime.begin_sharing()
    return [] if sharing is None else spend_rows(sharing.balances(), runtime.wall(), key)


def store_view(outage: StoreUnavailable | None, *, of_store: bool) -> dict[str, Any]:
    """Return how the store is doing that processes share, and what the page shows.

    Args:
        outage: Since when and why it cannot be used; None if it can be.
        of_store: Whether the page shows a store alone, and no process.
    """
    status = store_status()
    if status.url is None:
        outage = None
    return {
        **plain(status),
        "unavailable": None
        if outage is None
        else {
            "since": plain(outage.at),
            "reason": outage.reason,
            "type_name": outage.type_name,
        },
        "scope": "store" if of_store else "process",
    }


def bench(wanted: WantedBench, by: str) -> dict[str, Any]:
    """Bench a key by hand and return the bench.

    Raises:
        Problem: If the moment has passed, or another value is not allowed.
    """
    try:
        bench_model(wanted.model, wanted.until, reason=wanted.reason, by=by)
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None
    key = normal_key(wanted.model)
    made = next((each for each in list_benched() if each.model == key), None)
    return plain(_ended_bench(key, wanted, by) if made is None else made)


def unbench(key: str, by: str) -> None:
    """End the bench of a key.

    Raises:
        Problem: If it is not benched.
    """
    if not unbench_model(key, by=by):
        raise Problem(404, f"{normal_key(key)!r} is not benched")


def _targets(found: Mapping[str, TargetHealth]) -> list[dict[str, Any]]:
    probed = last_probes()
    return [{"key": key, **plain(each), **_probe(probed.get(key))} for key, each in found.items()]


def _probe(last: LastProbe | None) -> dict[str, Any]:
    """Return the last result of a health probe as a field; nothing for a key without one."""
    return {} if last is None else {"probe": plain(last._replace(at=runtime.moment(last.at)))}


def _may_be_called(target: Target) -> bool:
    """Return whether an attempt may enter a target now: neither it nor its provider is blocked."""
    look, now = runtime.registry.look, runtime.clock()
    return all(look(key).block(now) is None for key in (target.key, target.provider_key))


def _ended_bench(key: str, wanted: WantedBench, by: str) -> BenchedModel:
    """Return a bench that is over before it could be listed."""
    now = runtime.moment(runtime.clock())
    until: Any = wanted.until
    ended = now if until is None or isinstance(until, float) else until
    values: dict[str, Any] = {
        "model": key,
        "until": ended,
        "remaining": 0.0,
        "since": now,
        "consecutive_failures": 0,
        "manual": True,
        "reason": wanted.reason,
        "kind": None,
        "by": by,
        "source": "local",
    }
    return BenchedModel(**{each.name: values[each.name] for each in fields(BenchedModel)})
