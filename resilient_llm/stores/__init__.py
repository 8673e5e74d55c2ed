"""Stores share state between processes, one file each; `Store` is what the library asks of one.

The registry of a process decides and a store mirrors it, so a store has no opinion about circuits.
It keeps four things, and it does each request as a whole or not at all:

- benches and their ends, in order for each key;
- places of probes, one for each key;
- accounts of budgets, with what is reserved in them, and buckets of shared limits;
- sessions, which are the processes that use it.

To add one: a file here with a class that has the methods of `Store`. It imports values from
``_values`` and one third-party library, inside the function that needs it. A test of it calls
`resilient_llm.testing.store_contract`, which checks every sentence on this page that can be
checked from outside. A store that can run Python in one transaction gets all rules from
``_steps.Steps`` and writes only the tables below it; see ``memory`` and ``sqlite``.

**Threads and processes.** One thread of the process calls all methods. `Store.close` alone may be
called from others, and ends a `Store.wait`. Connections open with the first step and again after
`close`. A forked child neither uses nor closes those of its parent. One object may serve several
sessions: a stamp names the one that asks.

**Time.** ``timeout`` bounds a step, connecting included; a little more is not a fault. What lasts
is measured by the store's own clock, which is given as ``now``. Only durations are exchanged, so no
clock of a process matters. A store's clock may be set back: then nothing ends earlier than it
would have, and no period of a budget reopens.

**Errors.** A step raises `StoreError` with a reason of the closed set, or `DataLostError`, and
nothing else, whatever the store answers. Nothing in it shows a password, and neither does ``url``.
A store that can be read and not written goes on answering `Store.changes`.

**Stamps.** A step that changes something carries a `Stamp`; the store looks at it first:

1. ``epoch`` is not that of the data, or the data is older than what the session has by its stamp
   seen (its ``revision`` is above that of the store, or its ``answered`` is above the number that
   the store remembers of the session): `DataLostError`. In the latter case the store begins a new
   epoch first, so that all other sessions learn of it.
2. ``number`` is below the last one of the session: `StoreError` ``"error"``. This is a late copy of
   a step that was given up.
3. ``number`` is the last one: the step was done and only its answer was lost. The store changes
   nothing and answers as well as it can; `publish` answers ``"known"`` with the order, or
   ``"ended"``; `reserve` answers ``"admitted"`` for what it has.
4. Otherwise the store does the step and remembers the number, at least for 24 h, and longer if its
   clock has jumped ahead or no process was there.

So a session that got no answer either sends the same step again, before any other, or never again.
It must send a `settle` again, and may give up the rest.

**Epochs.** The data has a random name, which changes when the store has lost something that a
session may have seen: a flush, an evicted or deleted key, an old backup, a replica that lagged,
another file. A store finds out what it can by itself, and the stamps tell the rest.

**Order and revision.** Each new change gets an order, a whole number higher than every order before
it, also than those of lost data: the highest of the last revision + 1, the store's clock in
microseconds, and the stamp's ``order`` + 1. It never changes, and a copy that is written back keeps
it. The revision is the store's position: one number higher for each row that is written, and equal
to the order for a new change. `Store.changes` reads by revision.

**Rules for benches.** They hold for each key and layer.

- A bench whose id has ended is refused as ``"ended"``, and so is a copy whose order is at or below
  ``through`` of a remembered end. The same id is never stored twice (``"known"``).
- Of ``"automatic"`` and ``"pause"``, a bench that is older than another one and does not end later
  is needless and goes; a copy that is needless is not stored (``"known"``). All others stay, at
  most `SAME_KEY`, so that the longest still counts when a newer one ends.
- Of ``"manual"`` there is one, that of the highest order. A copy of a lower one is not stored
  (``"known"``). One with ``seen`` is refused as ``"superseded"`` if the newest manual change of the
  key, bench or end, has an order above ``seen``.
- An end removes benches of an order up to ``through``, and those named in ``ids``, and no others.
  It is remembered for 24 h: the latest of each key and layer, with the highest ``through`` and the
  ids of all of them, and every id that it named or removed.
- A bench that is over is not reported any more.

**Rules for probes.** A place belongs to the session that claimed it until the session gives it back
or its lease ends. Only the session that has it can renew it or give it back.

**Rules for budgets.** Amounts are exact, also above 2**53 (keep two whole numbers where numbers are
doubles). A reservation is admitted if, in every account, spent + reserved + amount ≤ cap; cap None
always admits. The same id is never reserved twice. A reservation that is not renewed for ``lasts``
seconds is booked by its fallbacks, as one call that is estimated; a settlement that comes within
24 h replaces what was booked. An entry below 0 takes back what was booked, and ``spent``, ``calls``
and ``estimated`` never fall below 0 by it; what is reserved stays. An account has one period in
force and keeps earlier ones for a day after their end; see `Reserved`.
"""

from __future__ import annotations

from resilient_llm._values.sharing import (
    Balance,
    Bench,
    Changes,
    Charge,
    Claim,
    Claimed,
    DataLostError,
    End,
    Entry,
    Published,
    RawRecord,
    Reserve,
    Reserved,
    Settle,
    Stamp,
    StoreError,
    Take,
)
from resilient_llm._values.store import Readable, Store

__all__ = [
    "Balance",
    "Bench",
    "Changes",
    "Charge",
    "Claim",
    "Claimed",
    "DataLostError",
    "End",
    "Entry",
    "Published",
    "RawRecord",
    "Readable",
    "Reserve",
    "Reserved",
    "Settle",
    "Stamp",
    "Store",
    "StoreError",
    "Take",
]
