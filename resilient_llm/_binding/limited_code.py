"""The code of a wrapper that takes by itself what limits and budgets ask of its first target.

The wrapper takes a place, a request, tokens and reservations in budgets where it begins the
attempt, and books them where the attempt has answered. Every other end is handed over to the
`Caller` together with what is held: see `InlinedLimits.hold`.

Theory of operation. What is taken is looked at and taken by one run of statements without a call
or a jump backwards, and settled by another one. Neither a thread nor an interrupt comes between
(see circuit/window.py, limits/places.py, limits/buckets.py and spending/local_ledger.py, whose
sums these are: keep in sync). So no lock is needed, and no amount is counted twice or lost. Between
these runs the wrapper owns what was taken for as long as its variable ``limits`` is set; what takes
over clears it in the run that takes over. An attempt that is interrupted in between is booked as
one that failed.

Whatever the run finds in its way (a limit that is full, a line, a budget without room, the end of
a period, settlements that wait for the lock) is left to the `Caller`, which finds out why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BUDGETS: Final = 4
"""Budgets of one attempt that a wrapper asks by itself; the call flow asks any number."""


BY_KEY: Final = "key "
"""Before the unit of a budget that counts by key."""


class Limited(NamedTuple):
    """What an attempt of a wrapper takes by itself."""

    places: bool = False
    """Whether it takes a place."""
    queued: bool = False
    """Whether attempts wait for such places, so that calls inside must know who holds one."""
    requests: bool = False
    """Whether it takes a request from a bucket."""
    tokens: bool = False
    """Whether it takes tokens from a bucket."""
    budgets: tuple[str, ...] | None = None
    """The units of the budgets that it reserves in, ``"key "`` before those of budgets that count
    by key; None if nothing is booked."""
    estimates: bool = False
    """Whether it needs an estimate of its tokens."""
    sized: bool = False
    """Whether that follows from the sizes of its arguments, as far as they are plain."""
    priced: bool = False
    """Whether tokens of its target have a price."""

    @property
    def spends(self) -> bool:
        """Whether it matters what an answer used."""
        return self.tokens or self.budgets is not None

    @property
    def variant(self) -> str:
        """A prefix that no other kind has."""
        parts = "".join(
            letter
            for letter, is_meant in (
                ("p", self.places),
                ("q", self.queued),
                ("r", self.requests),
                ("t", self.tokens),
                ("e", self.estimates),
                ("s", self.sized),
                ("x", self.priced),
            )
            if is_meant
        )
        books = "" if self.budgets is None else f"b{'_'.join(self.budgets)}"
        return f"limited_{parts}{books}_".replace(" ", "_")


_LINES: Final = """\
    |{define} {name}({parameters}):{pinned}
    |    if {p}open_traces and {p}has_trace() is not None:
    |        return {wait}{p}entry({args}, {kwargs})
    |    {p}limits = {p}circuit
    |    if {p}limits is {p}unbound:
    |        return {wait}{p}entry({args}, {kwargs})
S   |    {p}inside = {p}contexts.around()
S   |    if ({p}inside is not None and not {p}inside.is_over) or {p}contexts.permits():
S   |        return {wait}{p}entry({args}, {kwargs})
S   |    {p}inside = {p}new_inside()
Eg  |    {p}sent, {p}output = {p}limits.estimated({args}, {kwargs})
Eg  |    if {p}sent < 0:
Eg  |        return {wait}{p}entry({args}, {kwargs})
Es  |    {p}size = 0
Es  |    {sizes}
Es  |    if {p}size < 0:
Es  |        {p}sent, {p}output = {p}limits.estimated({args}, {kwargs})
Es  |        if {p}sent < 0:
Es  |            return {wait}{p}entry({args}, {kwargs})
Es  |    else:
Es  |        {p}sent = ({p}size + 3) // 4
K   |    {p}key = {p}contexts.key()
B   |    {p}ledger = {p}limits.ledger
B   |    if {p}limits.wall() >= {p}ledger._ends_at:
B   |        return {wait}{p}entry({args}, {kwargs})
    |    {p}entered = {p}clock()
R   |    {p}requests = {p}limits.requests
R   |    {p}requests._turn({p}entered + 0.0)
T   |    {p}tokens = {p}limits.tokens
Ts  |    {p}charged = {p}sent + {p}limits.least_output
Tg  |    {p}charged = {p}sent + {p}output if {p}output > 0 else {p}sent
T   |    {p}tokens._turn({p}entered + 0.0)
A   |    {p}now = {p}entered + {p}rounding
    |    {p}to = {p}limits.target
P   |    {p}places = {p}limits.places
X   |    {p}rates = {p}limits.rates
X   |    {p}total = {p}limits.total
#   |    {p}budget# = {p}limits.budget#
#o  |    {p}account# = {p}budget#.slot.own
#k  |    {p}accounts# = {p}budget#.slot.accounts
#k  |    {p}account# = {p}accounts#[{p}key] if {p}key in {p}accounts# else None
#c  |    {p}amount# = 1
#ts |    {p}amount# = {p}sent + {p}budget#.fixed
#us |    {p}amount# = {p}sent * {p}rates.input + {p}budget#.fixed
#tg |    {p}amount# = {p}sent + ({p}output if {p}output >= 0 else {p}budget#.unbounded)
#ug |    {p}amount# = (
#ug |        {p}sent * {p}rates.input
#ug |        + ({p}output if {p}output >= 0 else {p}budget#.unbounded) * {p}rates.output
#ug |        + {p}rates.per_call
#ug |    )
    |    {p}generation = {p}limits.circuit.limited_slot
    |    if (
    |        {p}generation is None
P   |        or {p}places.running >= {p}places.limit
P   |        or {p}places.waiting
R   |        or {p}requests._queue
R   |        or (
R   |            {p}requests._taken >= {p}requests.burst
R   |            and {p}requests._since
R   |            + ({p}requests._taken + 1 - {p}requests.burst) * {p}requests._interval > {p}now
R   |        )
T   |        or {p}tokens._queue
T   |        or (
T   |            {p}tokens._taken + {p}charged > {p}tokens.burst
T   |            and {p}tokens._since
T   |            + ({p}tokens._taken + {p}charged - {p}tokens.burst) * {p}tokens._interval > {p}now
T   |        )
B   |        or {p}ledger._queue
#   |        or {p}account# is None
#   |        or {p}account#.spent + {p}account#.reserved + {p}amount# > {p}budget#.cap
    |    ):
    |        return {wait}{p}entry({args}, {kwargs})
P   |    {p}places.running += 1
R   |    {p}requests._taken += 1
R   |    {p}period = {p}requests._period
T   |    {p}tokens._taken += {p}charged
T   |    {p}tokens_period = {p}tokens._period
#   |    {p}account#.reserved += {p}amount#
#k  |    {p}account#.open += 1
    |    try:
S   |        {p}contexts.put({p}inside)
    |        try:
    |            {attempt}
    |        except BaseException as {p}error:
S   |            {p}held = {p}limits.hold({holding})
S   |            {arm}
S   |            {p}pending = {p}on_failure(
S   |                {p}generation, {p}entered, {p}to, {p}error, None, None,
S   |                {p}held, {args}, {kwargs}
S   |            )
N   |            {p}limits = None
N   |            {p}places.running -= 1
N   |            if {p}places.waiting:
N   |                {p}places.fill()
N   |            {p}pending = {p}on_failure({p}generation, {p}entered, {p}to, {p}error)
    |            if {p}pending is None:
    |                raise
    |        else:
    |            {p}ended = {p}clock()
S   |            if {p}type({p}result) is {p}plain_type:
S   |                {p}told = None
S   |                if {p}plain_type is not {p}str:
S   |                    {p}told = {p}limits.counts_of({p}result)
S   |                if {p}told is not None:
S   |                    {p}input, {p}received = {p}told
X   |                    {p}cost = 0
X   |                    if {p}input or {p}received:
X   |                        {p}cost = (
X   |                            {p}input * {p}rates.input
X   |                            + {p}received * {p}rates.output
X   |                            + {p}rates.per_call
X   |                        )
S   |                    {p}estimated = 0
S   |                else:
SE  |                    {p}input, {p}received, {p}cost, {p}estimated = {p}limits.used(
SE  |                        {p}result, {p}sent
SE  |                    )
Se  |                    {p}input, {p}received, {p}cost, {p}estimated = {p}limits.used(
Se  |                        {p}result, 0
Se  |                    )
T   |                {p}tokens._turn({p}ended + 0.0)
S   |                if (
S   |                    {p}input >= 0 and
S   |                    {p}inside.running is None
#c  |                    and {p}account#.spent + 1 < {p}account#.notice_at
#t  |                    and {p}account#.spent + {p}input + {p}received < {p}account#.notice_at
#u  |                    and {p}account#.spent + {p}cost < {p}account#.notice_at
S   |                ):
SP  |                    {p}places.running -= 1
T   |                    {p}more = {p}input + {p}received - {p}charged
T   |                    if {p}more > 0 or {p}tokens_period == {p}tokens._period:
T   |                        {p}tokens._taken += {p}more
#   |                    {p}account#.reserved -= {p}amount#
#k  |                    {p}account#.open -= 1
#c  |                    {p}account#.spent += 1
#t  |                    {p}account#.spent += {p}input + {p}received
#u  |                    {p}account#.spent += {p}cost
#   |                    {p}account#.calls += 1
#   |                    if {p}estimated:
#   |                        {p}account#.estimated += 1
X   |                    {p}total.usd += {p}cost
S   |                    {p}inside.is_over = True
S   |                    {p}limits = None
S   |            if {p}limits is not None:
S   |                {p}held = {p}limits.hold({holding})
S   |                {arm}
S   |                {p}result = {p}on_limited_success(
S   |                    {p}generation, {p}entered, {p}ended, {p}to, {p}result, {args}, {kwargs},
S   |                    {p}held
S   |                )
S   |                return {opened}
SP  |            if {p}places.waiting:
SP  |                {p}places.fill()
T   |            if {p}tokens._queue:
T   |                {p}tokens.wake_first()
    |            if (
    |                {p}ended >= {p}generation.check_after
    |                or {p}ended - {p}entered >= {p}generation.slow_above
N   |                or {p}type({p}result) is not {p}plain_type
    |            ):
    |                {p}took = {p}ended - {p}entered
    |                if (
    |                    {p}ended >= {p}look_at
N   |                    or {p}type({p}result) is not {p}plain_type
    |                    or not {p}generation.answered({p}ended, {p}took, {p}took)
    |                ):
S   |                    {p}result = {p}on_success(
S   |                        {p}generation, {p}entered, {p}ended, {p}to, {p}result, {args}, {kwargs}
S   |                    )
N   |                    {p}held = {p}limits.hold({holding})
N   |                    {arm}
N   |                    {p}result = {p}on_limited_success(
N   |                        {p}generation, {p}entered, {p}ended, {p}to, {p}result, {args},
N   |                        {kwargs}, {p}held
N   |                    )
    |                    return {opened}
    |            else:
    |                {p}generation.n += 1
    |            return {p}result
    |    finally:
    |        if {p}limits is not None:
B   |            {p}counts = not (
B   |                {p}inside.are_booked or {p}inside.are_sent or {p}inside.running
B   |            )
X   |            {p}cost = {p}sent * {p}rates.input + {p}rates.per_call
P   |            {p}places.running -= 1
#   |            {p}account#.reserved -= {p}amount#
#k  |            {p}account#.open -= 1
#c  |            {p}account#.spent += 1
#t  |            {p}account#.spent += {p}counts * {p}sent
#u  |            {p}account#.spent += {p}counts * {p}cost
#   |            {p}account#.calls += 1
#   |            {p}account#.estimated += {p}counts
X   |            {p}total.usd += {p}counts * {p}cost
S   |            {p}inside.is_over = True
P   |            if {p}places.waiting:
P   |                {p}places.fill()
S   |        if not {p}inside.is_over and {p}contexts.around() is {p}inside:
S   |            {p}contexts.put(None)
    |    return {wait}{p}resume({p}pending, {args}, {kwargs})
"""
"""Lines of a wrapper, each with letters for which it is left out where one of them does not hold.

P: takes a place. R: a request. T: tokens. A: one of the two. B: is booked. S: tokens or budgets.
N: neither. E: needs an estimate; e: needs none; s, g: that follows from the sizes of the arguments,
or takes a call. X: has a price. K: a budget counts by key. A block of lines with # is repeated for
each budget, with its number; o, k: it has one account, or one by key; c, t, u: its unit.
"""

_HOLDING: Final = """\
            {p}mark = [{p}places]
            {p}marks = None
            try:
                {p}around = {p}holding.get()
                {p}marks = ({p}mark, *{p}around)
                {p}holding.set({p}marks)
                {attempt}
            finally:
                {p}mark.clear()
                if {p}holding.get() is {p}marks:
                    {p}holding.set({p}around)
"""
"""The attempt of such a wrapper if attempts wait for places; see _core/limits/around.py.

A coroutine may be closed in another context, which is left alone; the mark is empty then.
"""

_SIZE: Final = """\
    if {p}type({name}) is {p}str and {p}len({name}) < {p}shortest and {name}[:1] != "d":
        {p}size += {p}len({name})
    elif {p}type({name}) not in {p}bare:
        {p}size += {p}size_of({name})"""
"""Adds the size of one argument, or what is far below 0 if it is not plain. The first letter is
that of a ``data:`` URL."""


def limited_template(limited: Limited, names: Sequence[str]) -> str:
    """Return the template of a wrapper that takes by itself what its first target asks for.

    Args:
        limited: What that is.
        names: Of its parameters, without ``self`` and ``cls``.
    """
    budgets = limited.budgets or ()
    letters = {
        "P": limited.places,
        "R": limited.requests,
        "T": limited.tokens,
        "A": limited.requests or limited.tokens,
        "B": limited.budgets is not None,
        "S": limited.spends,
        "N": not limited.spends,
        "E": limited.estimates,
        "g": not limited.sized,
        "s": limited.sized,
        "K": any(each.startswith(BY_KEY) for each in budgets),
        "e": not limited.estimates,
        "X": limited.estimates and limited.priced,
    }
    lines: list[str] = []
    block: list[tuple[str, str]] = []

    def end_block() -> None:
        for number, budget in enumerate(budgets):
            kind = {
                "k" if budget.startswith(BY_KEY) else "o",
                "s" if limited.sized else "g",
                budget.removeprefix(BY_KEY)[0],
            }
            lines.extend(
                text.replace("#", str(number)) for flags, text in block if set(flags) <= kind
            )
        block.clear()

    for line in _LINES.splitlines():
        flags, _, text = line.partition("|")
        flags = flags.strip()
        if "#" in flags:
            block.append((flags.replace("#", ""), text))
            continue
        end_block()
        if all(letters[letter] for letter in flags):
            lines.extend(_with_arms(text, limited))
    end_block()
    source = "\n".join(lines) + "\n"
    if limited.queued:
        source = source.replace("            {attempt}\n", _HOLDING)
    sizes = "\n".join(_SIZE.replace("{name}", name) for name in names)
    return source.replace("    {sizes}", sizes).replace("{holding}", _holding(limited))


def _with_arms(text: str, limited: Limited) -> list[str]:
    """Return a line; in place of ``{arm}``, what lets `Held` own what the wrapper has taken.

    One run, whose last line ends the wrapper's own.
    """
    indent, found, _ = text.partition("{arm}")
    if not found:
        return [text]
    own = [i for i, each in enumerate(limited.budgets or ()) if not each.startswith(BY_KEY)]
    arms = (
        (limited.places, "{p}held.places[0]._state = {p}HELD"),
        (limited.requests, "{p}held.charges[0]._state = {p}TAKEN"),
        (limited.tokens, "{p}held.tokens[0]._state = {p}TAKEN"),
        (
            bool(limited.budgets),
            f"{{p}}held.spend.reservation._count = {len(limited.budgets or ())}",
        ),
        *((True, f"{{p}}account{i}.open += 1") for i in own),
        (True, "{p}limits = None"),
    )
    return [indent + arm for is_meant, arm in arms if is_meant]


def _holding(limited: Limited) -> str:
    """Return the arguments of `InlinedLimits.hold`."""
    taken = "".join(
        f"({{p}}account{i}, {{p}}amount{i}), " for i in range(len(limited.budgets or ()))
    )
    estimate = "{p}limits.estimate_of({args}, {kwargs})"
    if limited.estimates:
        estimate = "({p}sent, {p}limits.output)" if limited.sized else "({p}sent, {p}output)"
    return ", ".join(
        (
            estimate if limited.spends else "None",
            "{p}period" if limited.requests else "0",
            "{p}tokens_period" if limited.tokens else "0",
            "{p}charged" if limited.tokens else "0",
            f"({taken})",
            "{p}inside" if limited.spends else "None",
        )
    )
