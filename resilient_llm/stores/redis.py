"""`RedisStore`: shares state between machines, through Redis 6.2 or Valkey 7.2 and later.

Theory of operation. A step is one run of a script on the server, which does it as a whole or not
at all; see ``_redis_script``. All keys of a namespace have its name as their hash tag, so they lie
in one slot of a cluster. Time is the clock of the server.

*Durability* is that of the server: spending is on its disk when it is answered if it has
    ``appendonly yes`` and ``appendfsync always``, and a replica that had not caught up when it
    took over is found by the stamps.
*Loss.*  Each key has a mark in it, so that the script notices when one is flushed, evicted or
    replaced by something else. None of them expires, since servers like to evict what does; what
    is not needed any more, the script removes.
*Errors.*  Nothing is repeated after an error, but a step whose connection was closed while it was
    idle: it is sent again on a new one, which its stamp makes harmless.
*Waiting.*  A second connection listens to a channel, on which each `publish` tells the revision
    that it has reached. A message is only a hint to look. Without the right to listen, the store
    reads that revision from time to time.
*A dead subscription*, which a firewall or a NAT has forgotten, looks like one on which nothing is
    told. So if the revision that is read is later than all that the channel has told, and if
    nothing was heard for a while, the store sends a ping on that connection. What was told before
    comes before the answer. Without an answer in time it subscribes on a new connection, and also
    if the answer comes but no message: that server may no longer be the one that others write to.
*Rights.*  A user needs the keys ``resilient_llm:{<namespace>}:*`` and the commands ``evalsha eval
    time hget hmget hset hdel hgetall zadd zrem zscore zcount zrangebyscore del``. With ``ping`` and
    ``info`` the store can say more of what is wrong, and with ``publish``, ``subscribe`` and the
    channel ``resilient_llm:{<namespace>}:published`` benches arrive at once.
*Old servers* are refused as ``"error"``, with ``ServerTooOld`` as the type.
*Forks.*  A child closes its copies of the descriptors of its parent, and connects by itself.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sharing import (
    ENDED_FOR,
    MOST_IDS,
    SAME_KEY,
    DataLostError,
    StoreError,
    namespace_of,
)
from resilient_llm._values.unchained import unchained
from resilient_llm.stores import _forks
from resilient_llm.stores import _redis_words as words
from resilient_llm.stores._redis_clients import (
    Link,
    has_moved,
    is_no_script,
    of_client,
    of_url,
    refusal,
)
from resilient_llm.stores._redis_script import DIGEST, SCRIPT
from resilient_llm.stores._redis_tables import KEYS, VERSION
from resilient_llm.stores._waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._values.sharing import (
        Balance,
        Bench,
        Changes,
        Claim,
        Claimed,
        End,
        Published,
        Reason,
        Reserve,
        Reserved,
        Settle,
        Stamp,
    )
    from resilient_llm.stores import Readable
    from resilient_llm.stores._redis_clients import Source

T = TypeVar("T")

_USUAL_TIMEOUT: Final = 1.0
"""Seconds for which `wait` does anything on the server, before the first step has told another."""
_POLL: Final = 0.25
"""Seconds between two looks of a wait that may not listen."""
_DEAF_FOR: Final = 60.0
"""Seconds after which such a store tries to listen again."""
_SILENCE: Final = 30.0
"""Seconds without a message after which the store looks whether the subscription is alive, and
between two new ones because of a message that is missing: those who publish may have no right to
tell."""
_CLOSING: Final = 1.0
"""Seconds for which `RedisStore.close` waits for a step to end."""


class RedisStore:
    """Shares state between machines, through Redis or Valkey.

    Examples:
        >>> import redis
        >>> RedisStore(redis.Redis(host="cache", password="secret", socket_timeout=1.0)).url
        'redis://cache:6379/0'

    Args:
        client: A synchronous client of redis-py: ``Redis``, also one of ``Sentinel.master_for``,
            or ``RedisCluster``, with ``socket_timeout``. The store connects as it does, by itself:
            it neither closes the client nor uses its pool, and retries of the client do not count.
        namespace: 1 to 64 of ``A-Za-z0-9_.-``; others on the same server are apart.

    Raises:
        ConfigurationError: If the client is another one, or the namespace is not allowed.
    """

    has_limits = True

    def __init__(self, client: Any, *, namespace: str = "resilient_llm") -> None:
        self._begin(of_client(client), namespace)

    @classmethod
    def from_url(cls, url: str, *, namespace: str = "resilient_llm") -> RedisStore:
        """Return a store that connects by itself; nothing is connected yet.

        Args:
            url: With the scheme ``redis``, ``rediss``, ``unix``, ``valkey`` or ``valkeys``, and
                the query parameters of redis-py.
            namespace: As for the class.

        Raises:
            ConfigurationError: If the URL or the namespace is not allowed, or redis-py is missing.
        """
        store, wrong = cls.__new__(cls), None
        try:
            store._begin(of_url(url), namespace)
            return store
        except ConfigurationError as error:
            wrong = unchained(error)
        del url, store  # it may have a password in it
        try:
            raise wrong
        finally:
            del wrong  # its traceback refers to this frame

    def _begin(self, source: Source, namespace: str) -> None:
        base = f"resilient_llm:{{{namespace_of(namespace)}}}:"
        self.url = source.url
        self._keys = [f"{base}{name}".encode() for name in KEYS]
        self._channel = f"{base}published".encode()
        self._source = source
        self._lock = threading.Lock()
        """Held during a step."""
        self._link = Link(source, base + KEYS[0])
        self._listening = threading.Lock()
        """Held during a wait."""
        self._listener = Link(source, base + KEYS[0])
        self._is_stale = False
        """Whether the listener may be cut off without having noticed."""
        self._deaf_until = 0.0
        self._announced: float | None = None
        """The latest revision that the channel has told, or that the first look found."""
        self._heard_at = 0.0
        """When something was heard last."""
        self._renewed_at = -math.inf
        """When the store subscribed again because a message was missing."""
        self._timeout = _USUAL_TIMEOUT
        self._waiters: list[Waiter] = []
        _forks.register(self)

    def __repr__(self) -> str:
        return f"RedisStore({self.url!r})"

    # Steps.

    def publish(
        self,
        stamp: Stamp,
        changes: Sequence[Bench | End],
        balances: Sequence[Balance] = (),
        *,
        timeout: float,
    ) -> tuple[Published, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(
            b"publish",
            stamp,
            lambda: words.listed(changes, words.change) + words.listed(balances, words.balance),
            words.published,
            timeout,
        )

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        """See `resilient_llm.stores.Store`."""
        return self._step(
            b"changes",
            stamp,
            lambda: [words.number(max(since, 0)), words.number(max(limit, 1))],
            words.changes,
            timeout,
        )

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(
            b"claim", stamp, lambda: words.listed(claims, words.claim), words.claimed, timeout
        )

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(
            b"reserve",
            stamp,
            lambda: [words.number(lasts), *words.listed(reserves, words.reserve)],
            words.reserved,
            timeout,
        )

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(
            b"settle", stamp, lambda: words.listed(settles, words.settle), words.balances, timeout
        )

    def _step(
        self,
        name: bytes,
        stamp: Stamp,
        sent: Callable[[], list[bytes]],
        read: Callable[[Any], T],
        timeout: float,
    ) -> T:
        until = time.monotonic() + max(timeout, 0.0)
        self._timeout = timeout
        try:
            given = [
                name,
                self._channel,
                secrets.token_hex(8).encode(),
                *map(words.number, (VERSION, SAME_KEY, MOST_IDS, ENDED_FOR)),
                *words.stamp(stamp),
                *sent(),
            ]
            answer = self._locked(lambda: self._run(given, until), until)
            what = answer[0]
            if what == b"done":
                return read(answer[1])
        except (DataLostError, StoreError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever the server may answer
            raise StoreError("error", type(error).__name__) from None
        if what == b"lost":
            raise DataLostError
        reason: Reason = "newer_schema" if what == b"newer_schema" else "error"
        raise StoreError(reason)

    def _locked(self, run: Callable[[], T], until: float) -> T:
        if not self._lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise StoreError("timeout")
        try:
            return run()
        finally:
            self._lock.release()

    def _run(self, given: list[bytes], until: float) -> Any:
        keys = [words.number(len(self._keys)), *self._keys]
        try:
            return self._called([b"EVALSHA", DIGEST, *keys, *given], until)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001
            if not is_no_script(error):
                raise self._refused(error) from None
        try:
            return self._called([b"EVAL", SCRIPT, *keys, *given], until)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001
            raise self._refused(error) from None

    def _called(self, command: list[bytes], until: float) -> Any:
        """Send a command, once more if the connection was closed since the last one."""
        was_open = self._link.is_open
        try:
            return self._link.call(command, until)
        except Exception as error:
            is_cut = was_open and not self._link.is_open and refusal(error).reason == "unreachable"
            if not is_cut and not has_moved(error):
                raise
        return self._link.call(command, until)

    def _refused(self, error: Exception) -> StoreError:
        found = refusal(error)
        if found.reason in ("unreachable", "timeout", "read_only"):
            # It may be another server now that is meant; and the listener may be as cut off.
            self._link.close()
            self._is_stale = True
        return found

    # Waiting.

    def wait(self, since: int, seconds: float, wake: Readable | None = None) -> bool:
        """See `resilient_llm.stores.Store`."""
        until = time.monotonic() + seconds
        waiter = Waiter()
        self._waiters.append(waiter)
        try:
            if not self._listening.acquire(timeout=max(seconds, 0.0)):
                return False
            try:
                return self._wait(since, until, waiter, wake)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001
                raise refusal(error) from None
            finally:
                self._listening.release()
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            waiter.close()

    def _wait(self, since: int, until: float, waiter: Waiter, wake: Readable | None) -> bool:
        limit = time.monotonic() + max(self._timeout, 0.0)
        is_listening = self._listen(limit)
        # After that, so that nothing is missed in between.
        published = self._published(limit)
        if is_listening and self._catch_up(published, since):
            return True
        if published > since:
            return True
        while True:
            if is_listening:
                try:
                    messages = self._hear(time.monotonic() + self._timeout)
                except Exception:  # noqa: BLE001  # cut off: a look finds out why
                    return True
                if any(_is_later(each, since) for each in messages):
                    return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            other = self._listener.socket if is_listening else None
            span = self._heard_at + _SILENCE - time.monotonic() if is_listening else _POLL
            _, is_over = waiter.wait(min(left, span), wake, other)
            if is_over or waiter.is_closed:
                return False
            if not is_listening and self._published(time.monotonic() + self._timeout) > since:
                return True

    def _hear(self, until: float) -> list[Any]:
        """Return the messages that have come; after a long silence, see whether any can come."""
        messages = self._listener.heard(until)
        if not messages and time.monotonic() >= self._heard_at + _SILENCE:
            messages = self._listener.ping(until)
            self._heard_at = time.monotonic()
        self._note(messages)
        return messages

    def _note(self, messages: Sequence[Any]) -> None:
        if messages:
            self._heard_at = time.monotonic()
        for each in messages:
            self._announced = max(self._announced or 0.0, _revision_of(each))

    def _catch_up(self, published: float, since: int) -> bool:
        """Read what the channel has told; return whether that is a hint to look.

        It is one as well if the channel has not told what was published. Then it is left.
        """
        now = time.monotonic()
        if published == math.inf:  # data is gone
            return False
        if self._announced is None:
            self._announced, self._heard_at = published, now
            return False
        if self._announced > published:
            self._announced = 0.0  # data is gone, or somebody made it up: it says nothing
        try:
            messages = self._listener.heard(now + self._timeout)
            self._note(messages)
            if published <= self._announced:
                return any(_is_later(each, since) for each in messages)
            # It may be under way; whatever was told before comes before the answer.
            self._note(self._listener.ping(now + self._timeout))
        except Exception:  # noqa: BLE001  # cut off, or silent: the next wait subscribes again
            return True
        self._heard_at = time.monotonic()
        if published <= self._announced:
            return False
        self._announced = published
        if self._heard_at < self._renewed_at + _SILENCE:
            return False
        self._renewed_at = self._heard_at
        self._listener.close()
        return True

    def _listen(self, until: float) -> bool:
        """Return whether the listener listens."""
        if self._is_stale:
            self._is_stale = False
            self._listener.close()
        if self._listener.is_open:
            return True
        self._announced = None
        if time.monotonic() < self._deaf_until:
            return False
        try:
            self._listener.call([b"SUBSCRIBE", self._channel], until)
        except Exception as error:  # noqa: BLE001
            self._listener.close()
            found = refusal(error)
            if found.reason != "auth":
                raise found from None
            self._deaf_until = time.monotonic() + _DEAF_FOR
            return False
        return True

    def _published(self, until: float) -> float:
        """Return the revision of the latest bench that was published; infinite if data is gone."""
        command = [b"HGET", self._keys[0], b"published"]
        try:
            published = self._locked(lambda: self._called(command, until), until)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001
            raise self._refused(error) from None
        try:
            return int(float(published))
        except (TypeError, ValueError, OverflowError):  # it is gone, or garbage
            return math.inf

    def close(self) -> None:
        """Close the connections, and end the waits of other threads."""
        for waiter in list(self._waiters):
            waiter.is_closed = True
            waiter.wake()
        for lock, link in ((self._lock, self._link), (self._listening, self._listener)):
            if lock.acquire(timeout=_CLOSING):
                try:
                    link.close()
                finally:
                    lock.release()

    # Forks.

    def before_fork(self) -> None:
        """Nothing: the child opens connections of its own."""

    def after_fork_in_parent(self) -> None:
        """Nothing either."""

    def after_fork_in_child(self) -> None:
        """Begin without what the threads of the parent have."""
        self._lock, self._listening = threading.Lock(), threading.Lock()
        self._waiters = []
        self._link.leave()
        self._listener.leave()


def _is_later(message: Any, since: int) -> bool:
    """Return whether a message is a hint to look: what is no old revision."""
    try:
        kind, _, payload = message
        return kind == b"message" and int(float(payload)) > since
    except (TypeError, ValueError, OverflowError):
        return True


def _revision_of(message: Any) -> float:
    """Return the revision that a message tells, or 0 if it tells none."""
    try:
        return int(float(message[2]))
    except (TypeError, ValueError, OverflowError, LookupError):
        return 0
