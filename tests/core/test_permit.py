"""The permit for one attempt: which circuit is charged, and that it is reported once."""

from __future__ import annotations

import contextvars
import copy
import pickle
import random
from collections.abc import Callable

import pytest

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.permit import (
    Permit,
    admit,
    block_of,
    held_leases,
    open_permits,
    permit_of_inlined,
    pop_permit,
    push_permit,
)
from resilient_llm._core.circuit.state import Block, Lease
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from tests.support.circuits import DOWN, WRONG, EventSink, answer, circuit, fail, limited

SICK = Verdict(ErrorKind.TRANSIENT, "overloaded", scope="provider")


def family(**options: object) -> tuple[Circuit, Circuit]:
    """Return a provider and its one target, with the same settings."""
    provider = circuit("groq", **options)
    return provider, circuit("groq/a", provider=provider, **options)


def permitted(one: Circuit, now: float) -> Permit:
    """Return a permit; fails if the caller is rejected."""
    permit = admit(one, now)
    assert isinstance(permit, Permit)
    return permit


def half_open(*circuits: Circuit) -> None:
    """Open circuits that a single failure opens, at 0 for 30 s."""
    for one in circuits:
        fail(one, 0.0)


class TestAdmitting:
    """A target and its provider are asked, as one."""

    def test_a_healthy_pair_gives_their_closed_periods(self) -> None:
        provider, one = family()

        permit = permitted(one, 5.0)

        assert (one.generation, provider.generation, 5.0) == (
            permit.admission,
            permit.provider_admission,
            permit.entered_at,
        )
        assert ((), 5.0) == (permit.leases, one.touched_at)

    def test_a_key_without_a_provider_stands_for_itself(self) -> None:
        one = circuit("groq")

        permit = permitted(one, 5.0)

        assert (one.generation, None) == (permit.admission, permit.provider_admission)

    def test_a_half_open_key_without_a_provider_gives_a_lease(self) -> None:
        one = circuit("groq", failures=1)
        half_open(one)

        permit = permitted(one, 30.0)

        assert (1, None) == (len(permit.leases), permit.provider_admission)

    def test_both_half_open_give_a_lease_each(self) -> None:
        provider, one = family(failures=1)
        half_open(one, provider)

        permit = permitted(one, 30.0)

        assert [True, True] == [
            isinstance(admission, Lease)
            for admission in (permit.admission, permit.provider_admission)
        ]
        assert (permit.admission, permit.provider_admission) == permit.leases

    def test_the_lease_of_one_of_them_is_found(self) -> None:
        provider, one = family(failures=1)
        half_open(provider)
        of_provider = permitted(one, 30.0)
        other_provider, other = family(failures=1)
        half_open(other)
        of_target = permitted(other, 30.0)

        assert ((of_provider.provider_admission,), (of_target.admission,)) == (
            of_provider.leases,
            of_target.leases,
        )
        assert other_provider.generation is of_target.provider_admission

    def test_a_benched_provider_rejects_and_the_targets_lease_is_given_back(self) -> None:
        provider, one = family(failures=1)
        half_open(one)
        provider.bench(0.0, 100.0, "migration")

        block = admit(one, 30.0)

        assert isinstance(block, Block)
        assert ("groq", "migration") == (block.key, block.reason)
        assert isinstance(one.admit(30.0), Lease)

    def test_the_block_that_ends_later_is_shown(self) -> None:
        provider, one = family(failures=1)
        half_open(one)
        provider.failure(provider.generation, 0.0, limited(100.0), 0.0)
        assert ("groq", 100.0) == (block_of(one, 1.0).key, block_of(one, 1.0).until)  # type: ignore[union-attr]

        block = admit(one, 1.0)

        assert isinstance(block, Block)
        assert ("groq", 100.0) == (block.key, block.until)

    def test_a_targets_later_end_is_its_own(self) -> None:
        provider, one = family(failures=1)
        half_open(provider)
        one.failure(one.generation, 0.0, limited(100.0), 0.0)

        block, asked = admit(one, 1.0), block_of(one, 1.0)

        assert isinstance(block, Block)
        assert asked is not None
        assert ("groq/a", "groq/a") == (block.key, asked.key)

    def test_a_manual_bench_is_shown_before_a_longer_one_of_the_provider(self) -> None:
        provider, one = family(failures=1)
        one.bench(0.0, 10.0, "mine")
        provider.bench(0.0, 100.0, "migration")

        blocks = admit(one, 1.0), block_of(one, 1.0)

        assert ["mine", "mine"] == [block.reason for block in blocks if isinstance(block, Block)]

    @pytest.mark.parametrize("until", [5.0, float("inf")])
    def test_a_manual_bench_of_the_provider_is_shown_before_the_keys_own(
        self, until: float
    ) -> None:
        provider, one = family(failures=1)
        one.failure(one.generation, 0.0, limited(100.0), 0.0)
        provider.bench(0.0, until, "migration")

        blocks = admit(one, 1.0), block_of(one, 1.0)

        assert ["migration", "migration"] == [
            block.reason for block in blocks if isinstance(block, Block)
        ]

    def test_an_end_that_nobody_knows_is_no_later_one(self) -> None:
        provider, one = family(failures=1)
        half_open(provider)
        provider.admit(60.0)
        one.failure(one.generation, 0.0, limited(100.0), 0.0)

        blocks = admit(one, 61.0), block_of(one, 61.0)

        assert ["groq/a", "groq/a"] == [block.key for block in blocks if isinstance(block, Block)]

    def test_asking_takes_nothing(self) -> None:
        _, one = family(failures=1)
        half_open(one)

        assert (None, None) == (block_of(one, 30.0), block_of(one, 30.0))
        assert isinstance(admit(one, 30.0), Permit)

    def borrowed(self, **options: object) -> tuple[Circuit, Permit, Permit]:
        """Return a half-open circuit, the permit of its probe, and that of a guard inside it."""
        provider, one = family(**{"failures": 1, **options})
        half_open(one, provider)
        outer = permitted(one, 30.0)
        push_permit(outer)
        inner = permitted(one, 31.0)
        pop_permit(outer)
        assert isinstance(admit(one, 31.0), Block)
        return one, outer, inner

    def test_a_guard_inside_a_probe_borrows_its_lease(self) -> None:
        _, outer, inner = self.borrowed()

        assert (2, ()) == (len(outer.leases), inner.leases)

    @pytest.mark.parametrize(
        "report", [Permit.abandoned, lambda permit: permit.failed(None, 31.0, WRONG)]
    )
    def test_a_guard_inside_without_a_verdict_keeps_the_probes_lease(
        self, report: Callable[[Permit], object]
    ) -> None:
        one, outer, inner = self.borrowed()

        report(inner)

        assert isinstance(admit(one, 31.0), Block)
        outer.succeeded(32.0, 2.0)
        assert "closed" == one.state(32.0)

    def test_an_answer_inside_is_the_probes_to_report(self) -> None:
        one, outer, inner = self.borrowed(successes_to_close=2)

        inner.succeeded(31.0, 1.0)
        outer.succeeded(32.0, 2.0)

        assert "half_open" == one.state(32.0)

    @pytest.mark.parametrize("verdict", [DOWN, limited(20.0)])
    def test_a_failure_inside_is_the_probes(self, verdict: Verdict) -> None:
        one, outer, inner = self.borrowed()

        inner.failed(None, 31.0, verdict)
        outer.succeeded(32.0, 2.0)

        assert ("open", 1) == (one.state(32.0), one.failed_probes)

    def test_a_lease_that_was_given_back_is_not_borrowed(self) -> None:
        one, outer, _ = self.borrowed()
        outer.abandoned()
        push_permit(outer)

        results = [admit(one, 33.0) for _ in range(3)]

        pop_permit(outer)
        assert [True, False, False] == [isinstance(each, Permit) for each in results]

    def test_leases_are_popped_in_any_order(self) -> None:
        first, second = self.borrowed()[1], self.borrowed()[1]
        push_permit(first)
        push_permit(second)

        pop_permit(first)
        assert second.leases == held_leases()
        pop_permit(second)

        assert () == held_leases()

    @pytest.mark.parametrize(
        "report",
        [
            Permit.abandoned,
            lambda permit: permit.succeeded(32.0, 1.0),
            lambda permit: permit.failed(None, 32.0, DOWN),
            lambda permit: permit.cancelled(32.0),
        ],
    )
    def test_a_permit_that_is_reported_in_another_context_is_dropped(
        self, report: Callable[[Permit], object]
    ) -> None:
        outer = self.borrowed()[1]
        push_permit(outer)

        contextvars.copy_context().run(report, outer)

        assert () == held_leases()
        assert () == open_permits.get(), "it is kept for ever"

    def test_a_permit_that_is_reported_in_another_context_makes_way_for_the_next(self) -> None:
        first, second = self.borrowed()[1], self.borrowed()[1]
        push_permit(first)
        contextvars.copy_context().run(first.abandoned)

        push_permit(second)

        assert (second,) == open_permits.get()
        pop_permit(second)

    def test_a_context_that_outlives_the_probe_is_admitted_as_any_other(self) -> None:
        one, outer, _ = self.borrowed()
        push_permit(outer)
        inside = contextvars.copy_context()
        pop_permit(outer)
        outer.succeeded(32.0, 2.0)

        permit = inside.run(permitted, one, 33.0)

        assert one.generation is permit.admission
        assert () == inside[open_permits]

    def test_places_of_other_keys_are_not_shared(self) -> None:
        _, one = family(failures=1)
        half_open(one)
        strange = circuit("openai", failures=1)
        half_open(strange)
        other = permitted(strange, 30.0)
        push_permit(other)
        try:
            permit = permitted(one, 30.0)
        finally:
            pop_permit(other)

        assert permit.admission is not other.admission
        assert isinstance(permit.admission, Lease)


class TestOfTheHealthyPath:
    """A call that only read the target's slot."""

    def test_gets_the_providers_present_period(self) -> None:
        provider, one = family()

        permit = permit_of_inlined(one, one.generation, 5.0)

        assert (one.generation, provider.generation, 5.0) == (
            permit.admission,
            permit.provider_admission,
            permit.entered_at,
        )

    def test_but_not_for_a_call_that_another_circuit_let_in(self) -> None:
        _, one = family()
        _, other = family()

        assert permit_of_inlined(one, other.generation, 5.0).provider_admission is None

    def test_of_a_disabled_provider_it_gets_what_counts_nothing(self) -> None:
        provider = circuit("groq", mode="disabled")
        one = circuit("groq/a", provider=provider)

        permit_of_inlined(one, one.generation, 5.0).failed(
            None, 6.0, Verdict(ErrorKind.RATE_LIMITED, "rate_limit", 20.0, scope="provider")
        )

        assert ("closed", (0, 0)) == (provider.state(6.0), provider.numbers(6.0))

    def test_of_a_disabled_target_it_is_charged_with_what_is_the_providers(self) -> None:
        provider = circuit("groq")
        one = circuit("groq/a", provider=provider, mode="disabled")
        assert one.slot is not None

        permit_of_inlined(one, one.slot, 5.0).failed(None, 6.0, SICK)

        assert ((0, 0), (1, 1)) == (one.numbers(6.0), provider.numbers(6.0))

    def test_unless_that_began_after_the_call(self) -> None:
        provider, one = family()
        provider.forget(6.0)

        assert permit_of_inlined(one, one.generation, 5.9).provider_admission is None
        assert permit_of_inlined(one, one.generation, 6.0).provider_admission is provider.generation

    def test_or_there_is_no_provider(self) -> None:
        one = circuit("groq")

        assert permit_of_inlined(one, one.generation, 5.0).provider_admission is None


class TestReporting:
    """Succeeded, failed, cancelled or abandoned."""

    def test_a_success_of_both_probes_is_one_call_of_the_provider(self) -> None:
        provider, one = family(failures=1, successes_to_close=2)
        half_open(provider, one)

        permitted(one, 60.0).succeeded(61.0, 1.0)

        assert (3, 2) == (provider.numbers(61.0)[0], one.numbers(61.0)[0])

    def test_a_success_is_counted_once_and_closes_both(self) -> None:
        provider, one = family(failures=1)
        half_open(one, provider)
        permit = permitted(one, 30.0)

        permit.succeeded(31.0, 1.0)

        assert ("closed", "closed") == (one.state(31.0), provider.state(31.0))

    def test_a_settled_success_is_measured_without_the_lock(self) -> None:
        one = circuit("groq")
        answer(one, 1.0)
        assert one.generation.is_settled
        permit = permitted(one, 1.0)
        lock, one._lock = one._lock, None  # type: ignore[assignment]
        permit.succeeded(1.5, 0.5)
        one._lock = lock

        assert (2, 0) == one.numbers(1.5)

    def test_when_a_bucket_ends_it_is_counted_with_it(self) -> None:
        one = circuit("groq")
        answer(one, 1.0)
        permit = permitted(one, 1.0)

        permit.succeeded(2.0, 1.0)

        assert 3.0 == one.generation.bucket_ends_at

    def test_a_target_is_charged_and_its_providers_lease_is_given_back(self) -> None:
        provider, one = family(failures=1)
        half_open(one, provider)
        permit = permitted(one, 30.0)

        permit.failed(None, 31.0, DOWN)

        assert ("open", "half_open") == (one.state(31.0), provider.state(31.0))
        assert isinstance(provider.admit(31.0), Lease)

    def test_a_provider_is_charged_and_its_targets_lease_is_given_back(self) -> None:
        provider, one = family(failures=1)
        half_open(one, provider)
        permit = permitted(one, 30.0)

        permit.failed(None, 31.0, SICK)

        assert ("open", "half_open") == (provider.state(31.0), one.state(31.0))
        assert isinstance(one.admit(31.0), Lease)

    def test_a_key_without_a_provider_is_charged_with_everything(self) -> None:
        one = circuit("groq", failures=1)

        permitted(one, 0.0).failed(None, 1.0, SICK)

        assert "open" == one.state(1.0)

    def test_a_provider_that_closed_meanwhile_is_not_charged(self) -> None:
        provider, one = family(failures=1)
        permit = permit_of_inlined(one, one.generation, -1.0)

        permit.failed(None, 1.0, SICK)

        assert ("closed", "closed") == (provider.state(1.0), one.state(1.0))

    def test_its_duration_is_passed_on(self) -> None:
        one = circuit("groq", slow_call=5.0, slow_rate=1.0, min_calls=1, failures=9, error_rate=1.0)
        permit = permitted(one, 0.0)

        permit.failed(None, 5.0, limited(0.0))

        assert (1, 1, 1) == one.generation.counts(5.0)

    def test_the_policys_cooldown_is_passed_on(self) -> None:
        one = circuit("groq", failures=1)

        permitted(one, 0.0).failed(None, 1.0, DOWN, cooldown=4.0)

        assert 5.0 == one.shut_until

    @pytest.mark.parametrize(("seconds", "errors"), [(9.999, 0), (10.0, 1)])
    def test_a_cancellation_counts_only_after_so_long_that_the_call_hung(
        self, seconds: float, errors: int
    ) -> None:
        one = circuit("groq")
        permit = permitted(one, 1.0)

        verdict = permit.cancelled(1.0 + seconds)

        assert (errors, errors) == one.numbers(1.0 + seconds)
        assert (Verdict(ErrorKind.TRANSIENT, "hung") if errors else None) == verdict

    def test_abandoning_gives_both_leases_back(self) -> None:
        provider, one = family(failures=1)
        half_open(one, provider)
        permit = permitted(one, 30.0)

        permit.abandoned()

        assert [True, True] == [isinstance(each.admit(30.0), Lease) for each in (one, provider)]

    def test_a_permit_without_admissions_reports_nothing(self) -> None:
        provider, one = family(failures=1)
        permit = Permit(one, None, None, 0.0)

        permit.succeeded(1.0, 1.0)
        permit.failed(None, 1.0, DOWN)
        permit.abandoned()

        assert [(0, 0), (0, 0)] == [one.numbers(1.0), provider.numbers(1.0)]


class TestChargingOnce:
    """An error that passes several guards of a key is charged by the innermost."""

    def test_an_outer_guard_of_the_same_key_passes(self) -> None:
        one = circuit("groq")
        outer, inner = permitted(one, 0.0), permitted(one, 1.0)
        error = ConnectionError()

        inner.failed(error, 2.0, DOWN)
        outer.failed(error, 3.0, DOWN)

        assert (1, 1) == one.numbers(3.0)

    def test_an_outer_guard_of_another_key_does_not(self) -> None:
        one, other = circuit("groq"), circuit("groq")
        outer, inner = permitted(other, 0.0), permitted(one, 1.0)
        error = ConnectionError()

        inner.failed(error, 2.0, DOWN)
        outer.failed(error, 3.0, DOWN)

        assert [(1, 1), (1, 1)] == [one.numbers(3.0), other.numbers(3.0)]

    def test_a_wrapper_around_the_error_was_charged_too(self) -> None:
        one = circuit("groq")
        outer, inner = permitted(one, 0.0), permitted(one, 1.0)
        error, wrapper = ConnectionError(), RuntimeError()
        wrapper.__cause__ = error

        inner.failed(error, 2.0, DOWN)
        outer.failed(wrapper, 3.0, DOWN)

        assert (1, 1) == one.numbers(3.0)

    def test_a_cause_that_is_very_deep_is_not_looked_for(self) -> None:
        one = circuit("groq")
        outer, inner = permitted(one, 0.0), permitted(one, 1.0)
        error = ConnectionError()
        inner.failed(error, 2.0, DOWN)
        wrapper: BaseException = error
        for _ in range(64):
            deeper = RuntimeError()
            deeper.__cause__ = wrapper
            wrapper = deeper

        outer.failed(wrapper, 3.0, DOWN)

        assert (2, 2) == one.numbers(3.0)

    def test_an_error_raised_again_later_is_charged_again(self) -> None:
        one = circuit("groq")
        error = ConnectionError()
        permitted(one, 0.0).failed(error, 1.0, DOWN)

        permitted(one, 1.0).failed(error, 2.0, DOWN)

        assert (2, 2) == one.numbers(2.0)

    def test_a_charge_that_is_not_repeated_gives_the_lease_back(self) -> None:
        sink = EventSink()
        one = circuit("groq", failures=1, probes=2, sink=sink)
        half_open(one)
        outer, inner = permitted(one, 30.0), permitted(one, 30.0)
        error = ConnectionError()
        inner.abandoned()
        Permit(one, one.generation, None, 30.5).failed(error, 31.0, DOWN)  # late: changes nothing
        sink.take()

        outer.failed(error, 32.0, DOWN)

        assert ([], "half_open") == (sink.take(), one.state(32.0))
        assert isinstance(one.admit(32.0), Lease)

    def test_what_blames_nobody_is_not_noted_and_a_rate_limit_is(self) -> None:
        one = circuit("groq")
        wrong, fast = ValueError(), ValueError()

        permitted(one, 0.0).failed(wrong, 1.0, WRONG)
        permitted(one, 0.0).failed(fast, 1.0, limited(0.0))

        assert ([], ["_resilient_llm_passages"]) == (list(vars(wrong)), list(vars(fast)))

    def test_an_error_that_meets_many_circuits_stays_small(self) -> None:
        error = ConnectionError()

        for _ in range(100):
            permitted(circuit("groq"), 0.0).failed(error, 1.0, DOWN)

        assert len(error._resilient_llm_passages) <= 64  # type: ignore[attr-defined]

    @pytest.mark.parametrize("entered_at", [0.0, 1.0])
    def test_an_outer_guard_of_the_context_that_started_another_passes(
        self, entered_at: float
    ) -> None:
        one = circuit("groq")
        outer = [permitted(one, 0.0), permitted(one, entered_at)]
        inner = [permitted(one, 1.5), permitted(one, 2.0)]
        error = ConnectionError()
        started = contextvars.copy_context()

        for permit in reversed(inner):
            started.run(permit.failed, error, 3.0, DOWN)
        for permit in reversed(outer):
            permit.failed(error, 4.0, DOWN)

        assert (1, 1) == one.numbers(4.0)

    def test_three_contexts_that_started_one_another_charge_twice(self) -> None:
        one = circuit("groq")
        permits = [permitted(one, float(n)) for n in range(3)]
        contexts = [contextvars.copy_context() for _ in permits]
        error = ConnectionError()

        for permit, context in reversed(list(zip(permits, contexts, strict=True))):
            context.run(permit.failed, error, 4.0, DOWN)

        assert (2, 2) == one.numbers(4.0)

    @pytest.mark.parametrize("apart", [0.0, 0.1], ids=["at-once", "one-after-another"])
    @pytest.mark.parametrize("guards", [1, 2])
    def test_one_error_that_many_calls_get_is_charged_for_each(
        self, apart: float, guards: int
    ) -> None:
        one = circuit("groq", failures=100, mode="metrics_only")
        error = ConnectionError()
        calls = [
            (contextvars.copy_context(), [permitted(one, n * apart) for _ in range(guards)])
            for n in range(20)
        ]

        for context, permits in calls:
            for permit in permits:
                context.run(permit.failed, error, 5.0, DOWN)

        assert (20, 20) == one.numbers(5.0)

    def test_calls_that_get_one_error_through_a_started_context_are_charged_for_each(self) -> None:
        one = circuit("groq", failures=100, mode="metrics_only")
        error = ConnectionError()
        outer = [(contextvars.copy_context(), permitted(one, 0.1 * n)) for n in range(20)]
        inner = [(contextvars.copy_context(), permitted(one, 3.0 + 0.1 * n)) for n in range(20)]

        for context, permit in inner + outer:
            context.run(permit.failed, error, 6.0, DOWN)

        assert (20, 20) == one.numbers(6.0)

    def test_a_caller_that_starts_what_all_share_is_charged_with_it_once(self) -> None:
        one = circuit("groq", failures=100, mode="metrics_only")
        error = ConnectionError()
        callers = [(contextvars.copy_context(), permitted(one, 0.1 * n)) for n in range(20)]
        shared = contextvars.copy_context(), permitted(one, 3.0)

        for context, permit in [shared, *callers]:
            context.run(permit.failed, error, 6.0, DOWN)

        assert (20, 20) == one.numbers(6.0)

    @pytest.mark.parametrize("order", ["reversed", "any"])
    def test_of_calls_that_get_one_error_in_another_order_half_are_charged(
        self, order: str
    ) -> None:
        one = circuit("groq", failures=100, mode="metrics_only")
        error = ConnectionError()
        calls = [(contextvars.copy_context(), permitted(one, 0.1 * n)) for n in range(20)]
        calls.reverse()
        if order == "any":
            random.Random(7).shuffle(calls)

        for context, permit in calls:
            context.run(permit.failed, error, 5.0, DOWN)

        assert 10 <= one.numbers(5.0)[1] <= 20

    def test_a_call_that_took_anothers_passage_for_its_own_leaves_it_to_that_one(self) -> None:
        one = circuit("groq", failures=100, mode="metrics_only")
        error = ConnectionError()
        early, late = contextvars.copy_context(), contextvars.copy_context()
        early_one, outer, inner = (permitted(one, float(n)) for n in range(3))

        late.run(inner.failed, error, 4.0, DOWN)
        early.run(early_one.failed, error, 4.1, DOWN)
        late.run(outer.failed, error, 4.2, DOWN)

        assert (1, 1) == one.numbers(5.0)

    @pytest.mark.parametrize(
        "copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.deepcopy]
    )
    def test_copies_of_an_error_are_charged_and_noted_by_themselves(
        self, copied: Callable[[BaseException], BaseException]
    ) -> None:
        one = circuit("groq")
        outer, inner = permitted(one, 0.0), permitted(one, 1.0)
        error = ConnectionError()
        inner.failed(error, 2.0, DOWN)

        other = copied(copied(error))
        permitted(one, 1.5).failed(other, 3.0, DOWN)
        outer.failed(other, 4.0, DOWN)

        assert (2, 2) == one.numbers(4.0)

    def test_a_class_that_hides_its_dict_is_charged_once(self) -> None:
        class Hidden(Exception):  # noqa: N818
            @property
            def __dict__(self) -> dict[str, object]:  # type: ignore[override]
                raise AttributeError

        one = circuit("groq")
        outer, inner = permitted(one, 0.0), permitted(one, 1.0)
        error = Hidden()

        inner.failed(error, 2.0, DOWN)
        outer.failed(error, 3.0, DOWN)

        assert (1, 1) == one.numbers(3.0)
