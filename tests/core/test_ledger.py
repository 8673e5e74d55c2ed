"""The ledger: admission, settlement, periods, reset, refusals and what observers are told."""

import gc
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target
from resilient_llm._core.spending import accounts, ledger, local_ledger
from resilient_llm._core.spending.booking import NOTHING, ONLY_THE_CALL, Booking
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Refusal, Reservation, first_to_reset
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._core.spending.prices import FREE, rates_of
from resilient_llm._values.money import Budget, Price, SpendReport
from resilient_llm._values.usage import Usage
from tests.support.budgets import EU, GPT, LLAMA, PRICE, START, Books
from tests.support.interrupts import interrupted_at
from tests.support.schedules import WHERE_CPYTHON_SWITCHES

CENT = Decimal("0.01")


# Admission.


def test_estimates_never_pass_a_cap_together() -> None:
    """An attempt is admitted as long as spent, reserved and its estimate are at most the cap."""
    books = Books(Budget(usd=CENT))  # room for 33 attempts of 0.0003

    admitted = [books.try_() for _ in range(40)]

    assert 33 == sum(isinstance(each, Reservation) for each in admitted)
    report = books.report()
    assert (Decimal("0.0099"), Decimal(0)) == (report.reserved, report.spent)


@pytest.mark.parametrize(
    ("budget", "most"),
    [(Budget(calls=1), 1), (Budget(calls=0), 0), (Budget(tokens=1000), 5), (Budget(tokens=999), 4)],
    ids=repr,
)
def test_the_cap_itself_may_be_spent(budget: Budget, most: int) -> None:
    """Exactly the cap is allowed, one more is not."""
    books = Books(budget)

    admitted = [books.try_() for _ in range(most + 3)]

    assert most == sum(isinstance(each, Reservation) for each in admitted)


def test_an_attempt_is_admitted_by_all_budgets_or_counts_in_none() -> None:
    """A refusal by one budget leaves nothing reserved in the others, wherever it stands."""
    books = Books(Budget(usd=1), Budget(calls=1, of="openai"), Budget(tokens=10**6))
    books.spend()

    books.refuse()

    assert [0, 0, 0] == [each.reserved for each in books.ledger.reports(books.now)]
    assert [1, 1, 1] == [each.calls for each in books.ledger.reports(books.now)]


@pytest.mark.parametrize(
    ("of", "covered"),
    [
        ("all", "openai/gpt groq/llama groq@eu/llama"),
        ("groq", "groq/llama groq@eu/llama"),
        ("groq@eu", "groq@eu/llama"),
        ("groq/llama", "groq/llama"),
        ("groq@eu/llama", "groq@eu/llama"),
        ("tag:cheap", "groq/llama"),
        ("tag:dear", ""),
        ("mistral", ""),
    ],
)
def test_what_a_budget_covers(of: str, covered: str) -> None:
    """A provider is capped with its accounts, an account and a target by themselves."""
    books = Books(Budget(calls=0, of=of))

    refused = [each.key for each in (GPT, LLAMA, EU) if isinstance(books.try_(each), Refusal)]

    assert covered.split() == refused


def test_tags_are_those_of_the_target_that_is_tried() -> None:
    """Two targets of one key may have different tags."""
    books = Books(Budget(calls=0, of="tag:cheap"))

    books.reserve(Target("groq/llama"))
    books.refuse(LLAMA)
    books.reserve(Target("groq/llama"))


def test_without_budgets_everything_is_admitted() -> None:
    """What was spent is known all the same, by target."""
    books = Books()

    books.spend(GPT)
    books.spend(LLAMA)
    books.spend(LLAMA)
    books.spend(EU, rates=None)

    assert {
        "groq/llama": Decimal("0.0006"),
        "groq@eu/llama": Decimal(0),
        "openai/gpt": Decimal("0.0003"),
    } == books.ledger.totals()
    assert [] == books.ledger.reports(books.now)


# Prices and unknown lengths.


def test_a_target_without_a_price_is_refused_by_budgets_in_usd() -> None:
    """The refusal is that of the budget which resets last, and no time helps."""
    books = Books(
        Budget(usd=1, per="day"), Budget(usd=2, of="groq"), Budget(tokens=10**6), Budget(calls=9)
    )

    refusal = books.refuse(LLAMA, rates=None)

    assert ("unpriced", "groq month usd", None) == (
        refusal.reason,
        refusal.budget,
        refusal.retry_after,
    )
    assert [0, 0, 0, 0] == [each.reserved for each in books.ledger.reports(books.now)]
    assert "unpriced" == Books(Budget(calls=0), Budget(usd=1)).refuse(rates=None).reason
    Books(Budget(tokens=10**6), Budget(calls=9)).reserve(rates=None)


def test_a_free_target_is_never_refused_by_a_budget_in_usd() -> None:
    """Not even by a cap of 0, or by one that is overspent; budgets in calls and tokens refuse it."""
    books = Books(Budget(usd=0), Budget(tokens=1000))

    books.refuse(rates=PRICE)
    for _ in range(5):
        books.spend(rates=FREE)
    refusal = books.refuse(rates=FREE)

    assert "all month tokens" == refusal.budget
    assert 0 == books.report("all month usd").spent


def test_an_unlimited_answer_needs_a_number() -> None:
    """Without one, the message says what to write; nothing stays reserved."""
    books = Books(Budget(calls=9, name="first"), Budget(usd=1, name="team"))

    with pytest.raises(ConfigurationError, match=r"budget 'team' .*on_unbounded=…") as caught:
        books.try_(received=None)

    assert "max_tokens" in str(caught.value)
    assert "max_output" in str(caught.value)
    assert [0, 0] == [each.reserved for each in books.ledger.reports(books.now)]
    with pytest.raises(ConfigurationError):
        Books(Budget(tokens=9)).try_(received=None, rates=FREE)


def test_each_budget_reserves_its_own_number_for_an_unlimited_answer() -> None:
    """Budgets in calls need none, nor do those in USD if answers are free."""
    books = Books(
        Budget(usd=1, on_unbounded=1000), Budget(tokens=5000, on_unbounded=10), Budget(calls=3)
    )
    embedding = rates_of(Price(1, 0))

    kept = books.reserve(received=None)
    Books(Budget(usd=1)).reserve(received=None, rates=embedding)

    assert {
        "all month calls": 1,
        "all month tokens": 110,
        "all month usd": Decimal("0.0021"),
    } == {each.budget: each.reserved for each in books.ledger.reports(books.now)}
    books.ledger.settle(kept, NOTHING)


# Settlement.


def test_a_settlement_replaces_the_estimate() -> None:
    """What was booked counts, more or less than what was reserved."""
    books = Books(Budget(usd=1), Budget(tokens=10**6), Budget(calls=9))
    reservation = books.reserve()

    cost = books.ledger.settle(reservation, Booking(Usage(1000, 200, cached=100)))

    assert 1_400_000_000 == cost
    spent = {each.budget: each.spent for each in books.ledger.reports(books.now)}
    assert {
        "all month calls": 1,
        "all month tokens": 1200,
        "all month usd": Decimal("0.0014"),
    } == spent
    assert {0} == {each.reserved for each in books.ledger.reports(books.now)}
    assert {"openai/gpt": Decimal("0.0014")} == books.ledger.totals()


def test_a_settlement_counts_once() -> None:
    """A second one is ignored, whatever it says."""
    books = Books(Budget(usd=1))
    reservation = books.reserve()

    books.ledger.settle(reservation, Booking(Usage(10, 0)))
    again = books.ledger.settle(reservation, Booking(Usage(999, 999)))
    books.ledger.settle_later(reservation, Booking(Usage(999, 999)))

    assert (Decimal("0.00001"), 1) == (books.report().spent, books.report().calls)
    assert 10_000_000 == again
    assert {"openai/gpt": Decimal("0.00001")} == books.ledger.totals()


@pytest.mark.parametrize(
    ("booking", "row"),
    [
        (NOTHING, (0, 0, 0)),
        (ONLY_THE_CALL, (0, 1, 0)),
        (Booking(Usage(50), estimated=True), (Decimal("0.00005"), 1, 1)),
        (Booking(Usage(100), estimated=True, as_reserved=True), (Decimal("0.0003"), 1, 1)),
    ],
    ids=["nothing", "only the call", "estimated", "as reserved"],
)
def test_what_is_counted(booking: Booking, row: tuple[Any, ...]) -> None:
    """Spending, calls and estimates are those of the booking."""
    books = Books(Budget(usd=1))

    books.ledger.settle(books.reserve(), booking)

    report = books.report()
    assert row == (report.spent, report.calls, report.estimated)


def test_an_attempt_that_is_booked_as_reserved() -> None:
    """Each budget books what it had reserved; the total is the largest amount in USD."""
    books = Books(
        Budget(usd=1, on_unbounded=1000),
        Budget(usd=2, on_unbounded=10, of="openai"),
        Budget(tokens=5000, on_unbounded=7),
    )

    books.ledger.settle(
        books.reserve(received=None), Booking(Usage(100), estimated=True, as_reserved=True)
    )

    assert [107, Decimal("0.0021"), Decimal("0.00012")] == [
        each.spent for each in books.ledger.reports(books.now)
    ]
    assert {"openai/gpt": Decimal("0.0021")} == books.ledger.totals()
    plain = Books()
    plain.ledger.settle(plain.reserve(), Booking(Usage(100), estimated=True, as_reserved=True))
    assert {"openai/gpt": Decimal("0.0003")} == plain.ledger.totals()


def test_a_price_for_each_call_is_booked_if_it_was_answered() -> None:
    """A call that was answered with a status, or not sent, costs nothing."""
    rates = rates_of(Price(1, 1)).__class__(1, 1, 1, 1, 1, per_call=1000)
    books = Books(Budget(usd=1))

    costs = [
        books.ledger.settle(books.reserve(rates=rates), booking)
        for booking in (NOTHING, ONLY_THE_CALL, Booking(Usage(5)), Booking(estimated=True))
    ]

    assert [0, 0, 1005, 1000] == costs


def test_a_refused_attempt_books_nothing() -> None:
    """A settlement of it changes nothing."""
    books = Books(Budget(calls=0))
    reservation = Reservation(GPT, Estimate(1, 1), PRICE)
    assert books.ledger.reserve(reservation, books.now) is not None

    books.ledger.settle(reservation, Booking(Usage(5)))
    books.ledger.settle_later(reservation, Booking(Usage(5)))

    assert 0 == books.report().spent
    assert {} == books.ledger.totals()


# Settlements that wait for nothing.


def test_a_later_settlement_is_made_by_the_next_holder() -> None:
    """Each reader and each attempt finds it made."""
    readers: list[Callable[[Books], object]] = [
        lambda books: books.ledger.reports(books.now),
        lambda books: books.ledger.totals(),
        lambda books: books.reserve(),
        lambda books: books.ledger.settle(books.reserve(), NOTHING),
        lambda books: books.ledger.replace([Budget(usd=1)], books.now),
    ]
    for read in readers:
        books = Books(Budget(usd=1))
        books.ledger.settle_later(books.reserve(), Booking(Usage(10, 5)))

        read(books)

        [slot] = books.ledger._slots.values()
        assert slot.own is not None
        assert (20_000_000, 1) == (slot.own.spent, slot.own.calls)


def test_a_later_settlement_does_not_wait() -> None:
    """It returns although another thread holds the lock."""
    books = Books(Budget(calls=5))
    reservation = books.reserve()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with books.ledger._lock:
            held.set()
            free.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    books.ledger.settle_later(reservation, ONLY_THE_CALL)
    free.set()
    thread.join()

    assert (1, 0) == (books.report().spent, books.report().reserved)


def test_a_reservation_that_is_lost_is_given_back() -> None:
    """Of an interrupt between the admission and the attempt, nothing is left."""
    books = Books(Budget(usd=1))

    books.reserve()
    gc.collect()

    report = books.report()
    assert (0, 0, 0) == (report.reserved, report.spent, report.calls)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals")
def test_a_signal_handler_may_use_the_ledger() -> None:
    """A handler on the thread that holds the lock neither waits nor passes a cap."""
    books = Books(Budget(calls=1), Budget(tokens=10**6))

    def handle(number: int, frame: FrameType | None) -> None:
        found.append(books.try_())
        books.ledger.reports(books.now)

    found: list[object] = []
    before = signal.signal(signal.SIGALRM, handle)
    try:
        with books.ledger._lock:
            signal.raise_signal(signal.SIGALRM)
            found.append(books.try_())
    finally:
        signal.signal(signal.SIGALRM, before)

    assert [True, False] == [isinstance(each, Reservation) for each in found]


MODULES = (local_ledger, accounts, ledger)


class Interrupt(BaseException):
    """Raised by a handler somewhere in the middle."""


def _raise() -> None:
    raise Interrupt


def test_an_interrupt_leaves_nothing_half_done() -> None:
    """Wherever a handler raises, nothing stays reserved and nothing is lost or booked twice."""
    step, more = 0, True
    while more:
        step += 1
        books = Books(Budget(usd=1), Budget(calls=9), Budget(tokens=10**6, of="key"))
        reservation = Reservation(GPT, Estimate(100, 100), PRICE, "a")

        def work(books: Books = books, reservation: Reservation = reservation) -> None:
            books.now += 60 * 86_400
            books.ledger.reserve(reservation, books.now)
            books.ledger.settle(reservation, Booking(Usage(10, 5)))

        try:
            with interrupted_at(step, _raise, *MODULES, points=WHERE_CPYTHON_SWITCHES) as steps:
                work()
            more = steps[0] >= step
        except Interrupt:
            pass
        admitted = reservation._queue is not None
        settled = reservation._booking is not None
        books.ledger.settle(reservation, Booking(Usage(10, 5)))
        del reservation, work

        rows = books.ledger.reports(books.now)
        assert {0} == {each.reserved for each in rows}, step
        assert not settled or admitted
        counted = {each.budget: each.spent for each in rows if each.calls}
        if counted:
            assert {
                "all month calls": 1,
                "all month usd": Decimal("0.00002"),
                "key month tokens": 15,
            } == counted, step
    assert step > 30


def test_a_handler_in_the_middle_passes_no_cap() -> None:
    """Wherever a handler reserves as well, both together are within the cap."""
    step, more = 0, True
    while more:
        step += 1
        books = Books(Budget(usd=1), Budget(calls=1), Budget(tokens=200))
        found: list[object] = []

        def reserve(books: Books = books, found: list[object] = found) -> None:
            found.append(books.try_())

        with interrupted_at(step, reserve, *MODULES, points=WHERE_CPYTHON_SWITCHES) as steps:
            reserve()
        more = steps[0] >= step

        assert 1 >= sum(isinstance(each, Reservation) for each in found)
        assert {1, 200} >= {each.reserved for each in books.ledger.reports(books.now)[:2]}
        found.clear()
        assert {0} == {each.reserved for each in books.ledger.reports(books.now)}, step
    assert step > 3


# Periods.


def test_a_new_period_starts_with_nothing() -> None:
    """Hours, days and months end by themselves, at the moment that was told."""
    books = Books(Budget(calls=1, per="hour"), Budget(calls=2, per="day", zone="Asia/Tokyo"))
    books.spend()

    refusal = books.refuse()
    books.now = START + 1799.9
    books.refuse()
    books.now = START + 1800
    books.spend()
    last = books.refuse()

    assert ("all hour calls", 1800.0) == (refusal.budget, refusal.retry_after)
    assert datetime(2026, 11, 29, 13, tzinfo=UTC) == refusal.resets_at
    assert ("all day calls", 7200.0) == (last.budget, last.retry_after)
    assert datetime(2026, 11, 29, 15, tzinfo=UTC) == last.resets_at


def test_an_attempt_belongs_to_the_period_in_which_it_began() -> None:
    """What it books later counts neither in the next period nor in what is reserved there."""
    books = Books(Budget(calls=1, per="hour"))
    reservation = books.reserve()

    books.now += 3600
    second = books.reserve()
    books.ledger.settle(reservation, Booking(Usage(1)))

    report = books.report()
    assert (0, 1) == (report.spent, report.reserved)
    assert datetime(2026, 11, 29, 13, tzinfo=UTC) == report.period_start
    books.ledger.settle(second, Booking(Usage(1)))
    assert 1 == books.report().spent
    assert Decimal("0.000002") == books.ledger.totals()["openai/gpt"]


def test_a_clock_that_is_set_back_reopens_no_period() -> None:
    """Neither the hour nor the month that was is in force again, for old budgets and for new ones."""
    hourly, monthly = Budget(calls=1, per="hour"), Budget(calls=1)
    books = Books(hourly, monthly)
    books.spend()
    books.now = datetime(2026, 12, 1, 0, 10, tzinfo=UTC).timestamp()
    books.spend()

    books.now -= 3600  # still November, says the clock
    refusal = books.refuse()
    books.ledger.replace([hourly, monthly, Budget(calls=1, per="day")], books.now)
    added = books.report("all day calls")

    assert ("all month calls", 31 * 86400 + 3000) == (refusal.budget, refusal.retry_after)
    assert datetime(2026, 12, 1, tzinfo=UTC) == books.report("all hour calls").period_start
    assert datetime(2026, 12, 1, tzinfo=UTC) == added.period_start
    books.now += 3000 + 3600  # past the hour that was in force
    books.ledger.replace([hourly], books.now)
    books.spend()


def test_a_report_is_of_the_present_period() -> None:
    """Reading advances the period as an attempt does."""
    books = Books(Budget(usd=1, per="day"))
    books.spend()

    books.now += 86_400

    report = books.report()
    assert (0, 0) == (report.spent, report.calls)
    assert timedelta(days=1) == report.resets_at - report.period_start


# Keys.


def test_each_key_has_a_cap_of_its_own() -> None:
    """Calls without a key are in no such budget."""
    books = Books(Budget(calls=1, of="key"), Budget(calls=5))

    books.spend(key="a")
    refusal = books.refuse(key="a")
    books.spend(key="b")
    books.spend()
    books.spend()

    assert ("budget key month calls", "a") == (refusal.reason, refusal.key)
    rows = [(each.budget, each.key, each.spent) for each in books.ledger.reports(books.now)]
    assert [
        ("all month calls", None, 4),
        ("key month calls", "a", 1),
        ("key month calls", "b", 1),
    ] == rows


def test_keys_that_were_refused_are_not_kept() -> None:
    """Nor are those of past periods: memory is that of the keys that were admitted in this one."""
    books = Books(Budget(calls=1, per="hour", of="key"), Budget(calls=10, per="day"))
    for number in range(10):
        books.spend(key=str(number))
    for number in range(10, 20):
        books.refuse(key=str(number))
    kept = len(books.ledger.reports(books.now))

    books.now += 3600

    assert 10 + 1 == kept
    assert 1 == len(books.ledger.reports(books.now))


def test_a_key_in_flight_is_kept_though_it_reserves_nothing() -> None:
    """Neither a reset nor another refusal forgets it."""
    books = Books(Budget(tokens=100, of="key"))
    kept = books.reserve(sent=0, received=0, key="a")

    books.ledger.reset()
    books.refuse(key="a")
    books.ledger.settle(kept, Booking(Usage(7)))

    assert 7 == books.report(key="a").spent


def test_unpriced_and_unlimited_attempts_open_no_key() -> None:
    """An attempt that was not admitted leaves no key."""
    books = Books(Budget(usd=1, of="key"))

    books.refuse(key="a", rates=None)
    with pytest.raises(ConfigurationError):
        books.try_(key="a", received=None)

    assert [] == books.ledger.reports(books.now)


# Refusals.


def test_what_a_refusal_says() -> None:
    """All that the error of the call shows."""
    books = Books(Budget(usd=Decimal("0.0005"), of="openai", per="day"))
    books.spend()

    refusal = books.refuse()

    assert (
        Refusal(
            reason="budget openai day usd",
            budget="openai day usd",
            key=None,
            cap=Decimal("0.0005"),
            spent=Decimal("0.0003"),
            reserved=Decimal(0),
            resets_at=datetime(2026, 11, 30, tzinfo=UTC),
            retry_after=11.5 * 3600,
        )
        == refusal
    )


def test_only_reservations_in_the_way_have_no_time() -> None:
    """They may be given back at any moment."""
    books = Books(Budget(calls=1))
    kept = books.reserve()

    refusal = books.refuse()

    assert (None, 1, 0) == (refusal.retry_after, refusal.reserved, refusal.spent)
    books.ledger.settle(kept, NOTHING)
    books.reserve()


def test_an_attempt_above_the_cap_has_no_time() -> None:
    """No period has room for it, whatever was spent."""
    books = Books(Budget(tokens=1000))
    books.spend()

    assert books.refuse(sent=901).retry_after is None
    assert [] == books.notices()
    assert books.refuse(sent=801).retry_after is not None
    assert [("exceeded", "all month tokens", None)] == books.notices()


def test_the_budget_that_resets_last_is_named() -> None:
    """Of several that refuse, the one that is in the way for longest; it does not matter which is first."""
    hourly, monthly = Budget(calls=1, per="hour"), Budget(calls=1)
    for budgets in ([hourly, monthly], [monthly, hourly]):
        books = Books(*budgets)
        books.spend()

        assert "all month calls" == books.refuse().budget


def test_the_target_to_come_back_for() -> None:
    """Of several targets it is the one that resets first; one without a price only if all are."""

    def refusal(name: str, hours: int, reason: str = "") -> Refusal:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
        return Refusal(reason or f"budget {name}", name, None, 1, 1, 0, at, 1.0)

    day, month = refusal("day", 24), refusal("month", 700)
    unpriced = refusal("x", 1, "unpriced")

    assert day == first_to_reset([month, day])
    assert month == first_to_reset([unpriced, month])
    assert unpriced == first_to_reset([unpriced])


# Notices.


def test_a_warning_and_an_excess_are_told_once() -> None:
    """Once in a period, at the share and at the cap."""
    books = Books(Budget(calls=5, per="hour"))

    told = []
    for _ in range(5):
        books.spend()
        told.append(books.notices())
    books.refuse()
    books.now += 3600
    books.spend()

    warning, excess = ("warning", "all hour calls", None), ("exceeded", "all hour calls", None)
    assert [[], [], [], [warning], [excess]] == told
    assert [] == books.notices()


def test_what_a_notice_says() -> None:
    """Amounts in the unit of the budget, and when it resets."""
    books = Books(Budget(usd=CENT, warn_at=0.03, of="key"))

    books.spend(key="a")

    [notice] = books.ledger.take_notices()
    assert ("warning", "key month usd", "a", Decimal("0.0003"), CENT) == notice[:5]
    assert datetime(2026, 12, 1, tzinfo=UTC) == notice.resets_at


def test_shares_are_exact() -> None:
    """Seven tenths of ten are seven, though the float below is less."""
    books = Books(Budget(calls=10, warn_at=0.7))

    for _ in range(6):
        books.spend()
    assert [] == books.notices()
    books.spend()
    assert [("warning", "all month calls", None)] == books.notices()


def test_each_key_is_told_of_by_itself() -> None:
    """And each budget."""
    books = Books(Budget(calls=1, of="key"), Budget(calls=2, warn_at=1))

    books.spend(key="a")
    books.spend(key="b")

    assert [
        ("warning", "key month calls", "a"),
        ("exceeded", "key month calls", "a"),
        ("warning", "all month calls", None),
        ("exceeded", "all month calls", None),
        ("warning", "key month calls", "b"),
        ("exceeded", "key month calls", "b"),
    ] == books.notices()


def test_reservations_alone_exceed_nothing() -> None:
    """A refusal is told of only if spending leaves no room for it."""
    books = Books(Budget(tokens=300))
    kept = books.reserve()
    books.refuse()
    assert [] == books.notices()

    books.ledger.settle(kept, Booking(Usage(150)))
    books.refuse()
    books.refuse()

    assert [("exceeded", "all month tokens", None)] == books.notices()


def test_a_past_period_is_not_told_of() -> None:
    """What an attempt books in a period that is over concerns nobody any more."""
    books = Books(Budget(calls=1, per="hour"))
    reservation = books.reserve()
    books.now += 3600
    books.ledger.reports(books.now)

    books.ledger.settle(reservation, Booking(Usage(1)))

    assert [] == books.notices()


# Reset and replacement.


def test_a_reset_keeps_reservations() -> None:
    """What was spent is forgotten; attempts in flight book afterwards, and warnings come again."""
    books = Books(Budget(calls=2), Budget(calls=9, of="key"))
    reservation = books.reserve(key="a")
    books.spend(key="b")
    books.notices()

    books.ledger.reset()

    assert {} == books.ledger.totals()
    rows = [(each.key, each.spent, each.reserved) for each in books.ledger.reports(books.now)]
    assert [(None, 0, 1), ("a", 0, 1)] == rows
    books.ledger.settle(reservation, Booking(Usage(1)))
    assert (1, 0) == (
        books.report("all month calls").spent,
        books.report("all month calls").reserved,
    )
    books.spend()
    assert 2 == len(books.notices())


def test_a_reset_of_one_budget_leaves_the_others() -> None:
    """And the totals."""
    books = Books(Budget(calls=2), Budget(usd=1))
    books.spend()

    books.ledger.reset("all month calls")

    assert (0, 1) == (books.report("all month calls").spent, books.report("all month usd").calls)
    assert {"openai/gpt": Decimal("0.0003")} == books.ledger.totals()
    with pytest.raises(ConfigurationError, match="'all month calls'"):
        books.ledger.reset("all month call")
    with pytest.raises(ConfigurationError, match="there are none"):
        Books().ledger.reset("x")


def test_a_name_keeps_its_spending() -> None:
    """Another cap, share and number change nothing of it, nor does another order."""
    books = Books(Budget(usd=1, name="team"), Budget(calls=5))
    kept = books.reserve()
    books.spend()

    books.ledger.replace(
        [Budget(calls=5), Budget(usd=CENT, name="team", warn_at=0.01, on_unbounded=3)], books.now
    )
    books.ledger.settle(kept, Booking(Usage(100)))

    report = books.report("team")
    assert (Decimal("0.0004"), 0, CENT, 2) == (
        report.spent,
        report.reserved,
        report.cap,
        report.calls,
    )
    assert [("warning", "team", None)] == books.notices()


@pytest.mark.parametrize(
    "other",
    [
        Budget(tokens=10**6, name="team"),
        Budget(usd=1, name="team", per="day"),
        Budget(usd=1, name="team", of="openai"),
        Budget(usd=1, name="team", zone="Europe/Berlin"),
        Budget(usd=1, name="other"),
    ],
    ids=repr,
)
def test_another_budget_starts_with_nothing(other: Budget) -> None:
    """Another unit, period, scope or zone is another budget; attempts in flight are not in it."""
    books = Books(Budget(usd=1, name="team"))
    kept = books.reserve()
    books.spend()

    books.ledger.replace([other], books.now)
    books.ledger.settle(kept, Booking(Usage(100)))

    report = books.report()
    assert (0, 0, 0) == (report.spent, report.reserved, report.calls)
    assert "openai/gpt" in books.ledger.totals()


def test_a_budget_that_is_gone_refuses_nothing() -> None:
    """The list is replaced as a whole."""
    books = Books(Budget(calls=0))
    books.refuse()

    books.ledger.replace([], books.now)

    books.reserve()


def test_a_higher_cap_is_warned_of_again() -> None:
    """With the same cap nothing is told twice."""
    books = Books(Budget(calls=1))
    books.spend()
    books.notices()

    books.ledger.replace([Budget(calls=1)], books.now)
    books.refuse()
    assert [] == books.notices()

    books.ledger.replace([Budget(calls=2)], books.now)
    books.spend()
    assert ["warning", "exceeded"] == [kind for kind, _, _ in books.notices()]


# Processes and bounds.


def test_a_child_keeps_spending_without_reservations() -> None:
    """The parent's attempts are not the child's, even if it settles one of them."""
    books = Books(Budget(usd=1), Budget(calls=9, of="key"))
    books.spend(key="a")
    kept = books.reserve(key="b")
    books.ledger._lock = None  # type: ignore[assignment]  # held by a thread of the parent

    books.ledger.after_fork()
    books.ledger.settle(kept, Booking(Usage(5)))
    books.ledger.settle_later(kept, Booking(Usage(5)))
    del kept

    rows = [(each.key, each.calls, each.reserved) for each in books.ledger.reports(books.now)]
    assert [(None, 1, 0), ("a", 1, 0)] == rows
    assert {"openai/gpt": Decimal("0.0003")} == books.ledger.totals()


def test_totals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a number of targets, further ones have one total together."""
    monkeypatch.setattr(local_ledger, "_MOST_TARGETS", 3)
    books = Books(Budget(usd=1))

    for number in range(6):
        books.spend(Target(f"openai/{number}"))

    totals = books.ledger.totals()
    assert {"*", "openai/0", "openai/1", "openai/2"} == totals.keys()
    assert Decimal("0.0009") == totals["*"]
    assert Decimal("0.0018") == books.report().spent
    assert len(books.ledger._scopes) <= 3


def test_amounts_are_exact() -> None:
    """A thousand small amounts are their sum, whatever their order."""
    books = Books(Budget(usd=1))
    rates = rates_of(Price(0.000001, 0.000003))

    for number in range(1000):
        books.ledger.settle(books.reserve(rates=rates), Booking(Usage(number, 1)))

    assert Decimal(499_500 + 3000) / 10**12 == books.report().spent


def test_a_ledger_starts_without_budgets() -> None:
    """And is ready for use."""
    empty = LocalLedger()

    assert ([], {}, []) == (empty.reports(START), empty.totals(), empty.take_notices())


def test_reports_are_put_together_outside_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait only while the figures are copied, however many keys there are."""
    shared = Books(Budget(tokens=100, of="key")).ledger
    lock = _WatchedLock()
    shared._lock = lock  # pyright: ignore[reportAttributeAccessIssue]
    held: list[bool] = []

    def report(**fields: Any) -> SpendReport:
        held.append(lock.is_held)
        return SpendReport(**fields)

    monkeypatch.setattr(accounts, "SpendReport", report)
    for key in ("a", "b"):
        shared.reserve(Reservation(GPT, Estimate(1, 1), None, key), START)
    rows = shared.reports(START) + [each.report for each in shared.fullest(START, 5)]

    assert 4 == len(rows)
    assert [False] * 4 == held


class _WatchedLock:
    """A lock that shows whether it is held."""

    def __init__(self) -> None:
        self.is_held = False

    def __enter__(self) -> None:
        self.is_held = True

    def __exit__(self, *_: object) -> None:
        self.is_held = False
