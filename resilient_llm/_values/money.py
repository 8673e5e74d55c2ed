"""`Budget` and `Price`: caps on spending, and what tokens cost.

Frozen, and checked when built. Amounts in USD are exact: see `amounts`.
"""

from dataclasses import dataclass, fields
from datetime import datetime, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal, cast

from resilient_llm._values import checks as check
from resilient_llm._values.amounts import DECIMALS, decimal_of, exact, usd
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.keys import check_key, parse_key, provider_key
from resilient_llm._values.keys import shown as shown_key

Period = Literal["hour", "day", "month"]
Unit = Literal["usd", "tokens", "calls"]

PERIODS: Final = ("hour", "day", "month")
UNITS: Final = ("usd", "tokens", "calls")
ALL: Final = "all"
"""``of`` of a budget for every target."""
EACH_KEY: Final = "key"
"""``of`` of a budget for each key of ``spend_key`` by itself."""
TAG: Final = "tag:"
"""How ``of`` begins for the targets with a tag."""
PRICE_DECIMALS: Final = 6
"""Of a price per million tokens; so a token costs a whole number of 1e-12 USD."""
LONGEST_NAME: Final = 200
"""Characters of the longest name of a budget, and of the longest key of ``spend_key``."""
UTC_NAME: Final = "UTC"
"""The only zone that needs no data about time zones."""

_PRICE_ALLOWED: Final = (
    f"USD per million tokens, a number from 0 with at most {PRICE_DECIMALS} decimals"
)
_USD_ALLOWED: Final = f"an amount in USD, a number from 0 with at most {DECIMALS} decimals"


# Prices.


@exported
@dataclass(frozen=True, slots=True, repr=False)
class Price:
    """What tokens of a target cost, in USD per million.

    Examples:
        >>> Price(0.25, 2, cached=0.025)
        Price(input=Decimal('0.25'), output=Decimal('2'), cached=Decimal('0.025'))

    Attributes:
        input: Tokens of the request.
        output: Tokens of the answer.
        cached: Tokens that were read from a cache; None for the price of input.
        cache_write: Tokens that were written to a cache; None for 1.25 times the price of input.

    Raises:
        ConfigurationError: If a price is not a number from 0 to 1e12 with at most six decimals.
    """

    input: Decimal
    output: Decimal
    cached: Decimal | None
    cache_write: Decimal | None

    def __init__(
        self,
        input: int | float | Decimal,  # noqa: A002  # the word that everybody uses
        output: int | float | Decimal,
        cached: int | float | Decimal | None = None,
        cache_write: int | float | Decimal | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "input", _price("input", input))
        put(self, "output", _price("output", output))
        put(self, "cached", None if cached is None else _price("cached", cached))
        put(
            self, "cache_write", None if cache_write is None else _price("cache_write", cache_write)
        )

    def __repr__(self) -> str:
        given = ((each.name, getattr(self, each.name)) for each in fields(self))
        return (
            f"Price({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Price, (self.input, self.output, self.cached, self.cache_write)


def _price(name: str, value: Any) -> Decimal:
    units = exact(name, value, decimals=PRICE_DECIMALS, allowed=_PRICE_ALLOWED)
    return decimal_of(units, PRICE_DECIMALS)


def price_of(name: str, value: Any) -> Price | None:
    """Return what ``price=`` or an entry of ``prices=`` says, or None.

    Args:
        name: Of the option, for messages.
        value: A `Price`, ``(input, output)`` in USD per million tokens, or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if value is None or isinstance(value, Price):
        return value
    kind = type(value).__name__
    pair: tuple[Any, ...] = (
        tuple(cast("list[Any]", value)) if isinstance(value, (tuple, list)) else ()
    )
    if len(pair) == 2:
        try:
            return Price(*pair)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    given = f" of {len(pair)} values" if pair else f" of type {kind}"
    raise ConfigurationError(
        f"{name}{given} is not allowed: write (input, output) in USD per "
        "million tokens, a Price, or None"
    )


def given_price(value: Any) -> "tuple[float, float] | Price | None":
    """Return ``price=`` as it was given: ``(input, output)``, a `Price`, or None.

    A pair of `Decimal` is one of floats, or the `Price` of both where floats have too few digits.

    Raises:
        ConfigurationError: If it is something else.
    """
    if value is None or isinstance(value, Price):
        return value
    if not isinstance(value, (tuple, list)) or len(cast("list[Any]", value)) != 2:
        raise check.refuse(
            "price",
            cast("object", value),
            "(input, output) in USD per million tokens, a Price, or None",
        )
    first, second = cast("list[Any]", value)
    pair = _number("price[0]", first), _number("price[1]", second)
    price = price_of("price", pair)
    in_floats = float(pair[0]), float(pair[1])
    is_same = all(
        not isinstance(each, Decimal) or each == Decimal(float.__repr__(near))
        for each, near in zip(pair, in_floats, strict=True)
    )
    return in_floats if is_same else price


def _number(name: str, value: Any) -> float | Decimal:
    return value if isinstance(value, Decimal) else check.number(name, value, low=0.0)


# Budgets.


@exported
@dataclass(frozen=True, slots=True)
class SpendReport:
    """What one budget has spent, or one key of a budget that counts each key by itself.

    Attributes:
        budget: Name of the budget.
        of: What it caps.
        key: The key of ``spend_key``; None if the budget does not count by key.
        period_start: When the present period began, in UTC.
        resets_at: When the next one begins, in UTC.
        spent: What was booked in the period: USD as a `Decimal`, or tokens or calls.
        reserved: What attempts in flight that began in the period may use, in the same unit.
        cap: The cap, in the same unit.
        calls: Attempts that were sent.
        estimated: How many of the attempts were booked by estimate.
    """

    budget: str
    of: str
    key: str | None
    period_start: datetime
    resets_at: datetime
    spent: Decimal | int
    reserved: Decimal | int
    cap: Decimal | int
    calls: int
    estimated: int


@exported
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Budget:
    """A cap on what calls spend in an hour, a day or a month.

    Examples:
        >>> Budget(usd=50, of="openai").name
        'openai month usd'
        >>> Budget(calls=1000, per="day", of="key")
        Budget(calls=1000, per='day', of='key')

    Attributes:
        usd: Cap in USD, 0 or more with at most 12 decimals, or None. Exactly one of the three
            caps is given.
        tokens: Cap in tokens of input and output, 0 or more, or None.
        calls: Cap in attempts that were sent, 0 or more, or None.
        per: ``"hour"``, in UTC, ``"day"`` or ``"month"``, in ``zone``.
        of: What is capped: a target, a provider with all of its accounts, one account such as
            ``"groq@eu"``, ``"tag:…"``, ``"all"``, or ``"key"``: each key of ``spend_key`` by
            itself.
        warn_at: Share of the cap at which `BudgetWarning` is emitted, above 0 and at most 1.
        zone: IANA name of the time zone in which days and months begin. All but ``"UTC"`` need
            the data of the system or of the package ``tzdata``.
        on_unbounded: Tokens that are reserved for the answer of a call whose length nothing
            limits, at least 1; None refuses such calls with a ConfigurationError.
        name: Unique name, 1 to 200 printable characters; by default what is capped, the period
            and the unit.

    Raises:
        ConfigurationError: If there is not exactly one cap, or a value is not allowed.
    """

    usd: Decimal | None
    tokens: int | None
    calls: int | None
    per: Period
    of: str
    warn_at: float
    zone: str
    on_unbounded: int | None
    name: str

    def __init__(
        self,
        *,
        usd: int | float | Decimal | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        per: Period = "month",
        of: str = ALL,
        warn_at: float = 0.8,
        zone: str = UTC_NAME,
        on_unbounded: int | None = None,
        name: str | None = None,
    ) -> None:
        given = [
            unit for unit, cap in zip(UNITS, (usd, tokens, calls), strict=True) if cap is not None
        ]
        if len(given) != 1:
            said = f"Budget with {' and '.join(given)}" if given else "Budget without a cap"
            raise ConfigurationError(f"{said}: write exactly one of usd, tokens and calls")
        put = object.__setattr__
        put(self, "usd", None if usd is None else _usd("usd", usd))
        put(self, "tokens", check.whole("tokens", tokens, low=0, optional=True))
        put(self, "calls", check.whole("calls", calls, low=0, optional=True))
        put(self, "per", check.choice("per", per, PERIODS))
        put(self, "of", _scope(of))
        put(self, "warn_at", check.share("warn_at", warn_at))
        zone_named(zone)
        put(self, "zone", zone)
        put(self, "on_unbounded", check.whole("on_unbounded", on_unbounded, low=1, optional=True))
        default = f"{self.of} {self.per} {given[0]}"
        put(self, "name", default if name is None else _name(name))

    @property
    def unit(self) -> Unit:
        """``"usd"``, ``"tokens"`` or ``"calls"``: what the cap is in."""
        return "usd" if self.usd is not None else "tokens" if self.tokens is not None else "calls"

    @property
    def cap(self) -> Decimal | int:
        """The cap, in USD as a `Decimal`, or in tokens or calls."""
        return cast("Decimal | int", getattr(self, self.unit))

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in self._given().items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By a method of a public class: pickles then name no private module.
        return Budget._unpickled, (self._given(),)

    @classmethod
    def _unpickled(cls, options: dict[str, Any]) -> "Budget":
        return cls(**options)

    def _given(self) -> dict[str, Any]:
        """Return ``{keyword: value}`` that builds an equal budget, without what is the default."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        own = f"{self.of} {self.per} {self.unit}"
        return {
            name: value
            for name, value in values.items()
            if value != (own if name == "name" else _DEFAULTS[name])
        }


_DEFAULTS: Final[dict[str, Any]] = {
    "usd": None,
    "tokens": None,
    "calls": None,
    "per": "month",
    "of": ALL,
    "warn_at": 0.8,
    "zone": UTC_NAME,
    "on_unbounded": None,
}
"""``{option of a budget, but for its name: its default}``"""


def budgets_of(name: str, value: Any) -> tuple[Budget, ...]:
    """Return what ``budgets=`` says, in its order.

    Raises:
        ConfigurationError: If it is no list of `Budget`, or two of them have one name.
    """
    if not isinstance(value, (list, tuple)):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write a list of Budget(…)"
        )
    known: set[str] = set()
    for each in cast("list[Any]", value):
        if not isinstance(each, Budget):
            raise ConfigurationError(
                f"{name} holds something of type {type(each).__name__}: write Budget(…)"
            )
        if each.name in known:
            raise ConfigurationError(
                f"{name} has two budgets with the name {each.name!r}: give one of them a name=…"
            )
        known.add(each.name)
    return tuple(cast("list[Budget]", value))


def _usd(name: str, value: Any) -> Decimal:
    return usd(exact(name, value, decimals=DECIMALS, allowed=_USD_ALLOWED))


def _scope(of: Any) -> str:
    """Return what a budget is for, normalised as keys are."""
    if of in (ALL, EACH_KEY):
        return str(of)
    if isinstance(of, str) and of.strip() == "*":  # what it is in limits and prices
        raise ConfigurationError(f"of='*' is not allowed: write {ALL!r} for every target")
    if isinstance(of, str) and of.startswith(TAG):
        tag = of[len(TAG) :]
        if not tag or tag != tag.strip():
            raise ConfigurationError(
                f"of={shown_key(of)} names no tag: write 'tag:' and the tag, without blanks around"
            )
        return check_key(of)
    try:
        provider, account, model = parse_key(getattr(of, "key", of))  # of a `Target`
        head = provider_key(provider, account)
        return f"{head}/{model}" if model else head
    except ConfigurationError as error:
        raise ConfigurationError(
            f"of: {error}; or 'tag:name', {ALL!r}, or {EACH_KEY!r} for each key of spend_key"
        ) from None


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigurationError(
            f"name of type {type(name).__name__} is not allowed: write a text, or None"
        )
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise ConfigurationError(
            f"name of {len(name)} characters is not allowed: write 1 to {LONGEST_NAME} printable "
            "characters without blanks around"
        )
    return name


def spend_key_of(key: Any) -> str:
    """Return a key of ``spend_key``; the message does not repeat a wrong one.

    Raises:
        ConfigurationError: If it is no text of 1 to 200 printable characters.
    """
    if not isinstance(key, str):
        raise ConfigurationError(
            f"a spend key of type {type(key).__name__} is not allowed: write a text"
        )
    if not 0 < len(key) <= LONGEST_NAME:
        raise ConfigurationError(
            f"a spend key of {len(key)} characters is not allowed: write 1 to {LONGEST_NAME}"
        )
    try:
        return check_key(key)
    except ConfigurationError:  # which shows its beginning
        raise ConfigurationError(
            "a spend key has control characters or lone surrogates, which no key may have"
        ) from None


def zone_named(name: Any) -> tzinfo:
    """Return a time zone by its IANA name.

    Args:
        name: ``"UTC"``, which is always there, or a name of which the system or the package
            ``tzdata`` has the data.

    Raises:
        ConfigurationError: If there is none; the message gives the nearest names, or tells that
            there is no data at all.
    """
    if name == UTC_NAME:
        return timezone.utc  # noqa: UP017  # needs no data, as ZoneInfo("UTC") does
    if not isinstance(name, str):
        raise ConfigurationError(
            f"zone of type {type(name).__name__} is not allowed: write an IANA name such as "
            f"'Europe/Berlin', or {UTC_NAME!r}"
        )
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # not there; a path; a folder, or no such data
        pass
    known = zoneinfo.available_timezones()
    if not known:
        raise ConfigurationError(
            f"zone={shown_key(name)}: this machine has no data about time zones: install the "
            f"package tzdata, or write zone={UTC_NAME!r}"
        )
    near = check.near_names(name[:LONGEST_NAME], known)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigurationError(
        f"zone={shown_key(name)} is not a time zone: write an IANA name such as 'Europe/Berlin', "
        f"or {UTC_NAME!r}{hint}"
    )
