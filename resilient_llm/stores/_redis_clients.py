"""Connections of `RedisStore`: made as a client or a URL says, and used without redis-py's retries.

A client of a user is only asked how it connects, and its pool is left alone: the store has
connections of its own, so that each step has its own time limit. All of redis-py that is not
called on a client stands here.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sharing import StoreError

if TYPE_CHECKING:
    from resilient_llm._values.sharing import Reason

SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
"""``{scheme of a URL: what redis-py calls it}``"""

_NOT_FOR_US: Final = (
    "maint_notifications_config",
    "maint_notifications_pool_handler",
    "oss_cluster_maint_notifications_handler",
    "maintenance_state",
    "maintenance_notification_hash",
    "orig_host_address",
    "orig_socket_timeout",
    "orig_socket_connect_timeout",
    "retry_on_timeout",
    "retry_on_error",
    "health_check_interval",
)
"""Settings of connections that repeat commands, or that belong to the pool of the client."""
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""Seconds of silence before the system asks the other side, and between that; how often it asks.

What lies between forgets a connection that is silent for some minutes.
"""
_LEAST: Final = 0.001
"""Seconds of the shortest limit; 0 would not wait at all."""
_OLDEST: Final = (6, 2)
"""Release of Redis that is needed. Valkey tells 7.2 or later, whatever it is."""
_RELEASE: Final = re.compile(rb"^redis_version:(\d{1,4})\.(\d{1,4})", re.MULTILINE)
_NAME: Final = re.compile(r"[\w.-]+")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+(%[\w.-]+)?")
_USER_IN_PATH: Final = re.compile(r":[^/]*@")
_ENCODE: Final = "in a user or a password, write / as %2F, # as %23, ? as %3F and @ as %40"

_BY_CLASS: Final[dict[str, Reason]] = {
    "TimeoutError": "timeout",
    "AuthenticationError": "auth",
    "AuthorizationError": "auth",
    "NoPermissionError": "auth",
    "ReadOnlyError": "read_only",
    "OutOfMemoryError": "full",
    "BusyLoadingError": "unreachable",
    "ClusterDownError": "unreachable",
    "MasterDownError": "unreachable",
    "TryAgainError": "unreachable",
    "MovedError": "unreachable",
    "AskError": "unreachable",
    "ConnectionError": "unreachable",
    "RedisClusterException": "unreachable",
    "OSError": "unreachable",
}
"""``{class of redis-py or Python: reason}``; the first one of the bases of an error counts."""
_BY_CODE: Final[dict[str, Reason]] = {
    "READONLY": "read_only",
    "MISCONF": "read_only",
    "NOREPLICAS": "read_only",
    "OOM": "full",
    "NOAUTH": "auth",
    "NOPERM": "auth",
    "WRONGPASS": "auth",
    "BUSY": "timeout",
    "LOADING": "unreachable",
    "MASTERDOWN": "unreachable",
    "CLUSTERDOWN": "unreachable",
    "TRYAGAIN": "unreachable",
    "MOVED": "unreachable",
    "ASK": "unreachable",
}
"""``{first word of an error of the server: reason}``"""
_FORBIDDEN: Final = re.compile(r"ACL failure in script|The user executing the script can't")
"""What a server says of a command that the user may not use in a script; the latter before 7.2."""
_CODE: Final = re.compile(rf"\b({'|'.join(_BY_CODE)})\b")


def refusal(error: BaseException) -> StoreError:
    """Return what an error of redis-py or of the system means; its text is not kept."""
    if isinstance(error, StoreError):
        return error
    name = type(error).__name__
    for base in type(error).__mro__:
        if base.__name__ in _BY_CLASS:
            return StoreError(_BY_CLASS[base.__name__], name)
    # Before version 7, a server puts the error of a command into one of the script.
    text = str(error) if "ResponseError" in _bases(error) else ""
    if _FORBIDDEN.search(text):
        return StoreError("auth", name)
    code = _CODE.search(text)
    return StoreError(_BY_CODE[code.group()] if code else "error", name)


def _bases(error: BaseException) -> list[str]:
    return [base.__name__ for base in type(error).__mro__]


def is_answer(error: BaseException) -> bool:
    """Return whether an error is an answer of the server, after which a connection is in order."""
    return "ResponseError" in _bases(error)


def is_no_script(error: BaseException) -> bool:
    """Return whether the server does not have the script yet."""
    return "NoScriptError" in _bases(error) or "NOSCRIPT" in str(error)[:200]


def has_moved(error: BaseException) -> bool:
    """Return whether another server of a cluster has the data."""
    return "MovedError" in _bases(error) or str(error).startswith("MOVED ")


# Where connections come from.


class Source(Protocol):
    """Makes connections.

    Attributes:
        url: Where they lead, without a user and a password.
    """

    @property
    def url(self) -> str: ...

    def connection(self, key: str) -> Any:
        """Return a new connection of redis-py to the server that has a key, not connected yet."""
        ...

    def refresh(self) -> None:
        """Find out again which server has which key, if there are several."""
        ...


class _Settings:
    """Connects as a pool of redis-py does."""

    def __init__(self, kind: Any, settings: dict[str, Any], url: str) -> None:
        self._kind = kind
        self._settings = settings
        self.url = url

    def connection(self, key: str) -> Any:
        return _connection(self._kind, self._settings)

    def refresh(self) -> None:
        pass


class _Cluster:
    """Connects to the servers that a client of a cluster knows."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self.url = url

    def connection(self, key: str) -> Any:
        pool = _pool_in_cluster(self._client, self._client.get_node_from_key(key))
        return _connection(pool.connection_class, pool.connection_kwargs)

    def refresh(self) -> None:
        self._client.nodes_manager.initialize()


def _pool_in_cluster(client: Any, node: Any) -> Any:
    return client.get_redis_connection(node).connection_pool


def _connection(kind: Any, settings: dict[str, Any]) -> Any:
    """Return a connection that repeats nothing.

    It speaks RESP2, in which a message of a channel is an answer like others.
    """
    library = redis_library()
    kept = {name: value for name, value in settings.items() if name not in _NOT_FOR_US}
    kept["protocol"] = 2
    connection = _timed(kind)(**kept)
    connection.retry = library.retry.Retry(library.backoff.NoBackoff(), 0)
    return connection


@functools.cache
def _timed(kind: Any) -> Any:
    """Return a class of connections that connects as another one does, to a `_TimedSocket`."""

    def connect(self: Any) -> Any:
        return _TimedSocket(kind._connect(self), self.until)  # redis-py has no other way

    return type(kind.__name__, (kind,), {"until": math.inf, "_connect": connect})


class _TimedSocket:
    """A socket that is read and written until a moment, in however many parts.

    The limit of a socket is one of each read: an answer that comes byte by byte would be waited
    for without an end.
    """

    def __init__(self, sock: Any, until: float) -> None:
        self._sock = sock
        self.until = until

    def _limit(self) -> None:
        if self._sock.gettimeout() == 0.0 or self.until == math.inf:
            return
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def recv(self, *given: Any) -> Any:
        self._limit()
        return self._sock.recv(*given)

    def recv_into(self, *given: Any) -> Any:
        self._limit()
        return self._sock.recv_into(*given)

    def sendall(self, *given: Any) -> Any:
        self._limit()
        return self._sock.sendall(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def redis_library() -> Any:
    """Return redis-py.

    Raises:
        ConfigurationError: If it is not there, or too old.
    """
    try:
        library = importlib.import_module("redis")
        for name in ("backoff", "cluster", "connection", "retry", "sentinel"):
            importlib.import_module(f"redis.{name}")
    except ImportError:
        raise ConfigurationError(
            "Redis needs redis-py: run pip install 'resilient-llm[redis]'"
        ) from None
    if int(str(library.__version__).split(".")[0]) < 5:
        raise ConfigurationError(f"redis-py {library.__version__} is too old: 5 or later is needed")
    return library


def of_url(url: str) -> Source:
    """Return what connects as a URL says; nothing is connected.

    Raises:
        ConfigurationError: If redis-py does not accept it. Nothing of the URL but its scheme is
            in the message.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    known = SCHEMES.get(scheme)
    if not separator or known is None:
        raise ConfigurationError(
            f"this URL is not one of Redis: its scheme has to be one of {', '.join(SCHEMES)}"
        )
    _look_at_parts(scheme, f"{known}://{rest}")
    library = redis_library()
    try:
        pool = library.ConnectionPool.from_url(f"{known}://{rest}")
        if known == "rediss" and pool.connection_kwargs.get("ssl_cert_reqs") != "none":
            # Before version 6, redis-py does not look whose certificate it is shown.
            pool.connection_kwargs.setdefault("ssl_check_hostname", True)
        if known != "unix" and pool.connection_kwargs.setdefault("socket_keepalive", True):
            pool.connection_kwargs.setdefault("socket_keepalive_options", _KEEPALIVE)
        _connection(pool.connection_class, pool.connection_kwargs)
        settings = pool.connection_kwargs
        is_wrong = int(settings.get("db") or 0) < 0 or not _is_address(settings)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001  # its text may have the password in it
        raise _wrong_url(scheme, type(error).__name__) from None
    if is_wrong:
        raise _wrong_url(scheme)
    return _Settings(pool.connection_class, settings, _shown(settings, scheme))


def _look_at_parts(scheme: str, url: str) -> None:
    """Refuse a URL with parts that redis-py passes over, and so one of which it makes another."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _wrong_url(scheme) from None
    path = unquote(parts.path).strip("/")
    if scheme == "unix":
        if not path:
            raise ConfigurationError(
                "a unix URL names the path of a socket: write unix:///run/redis.sock"
            )
    elif path and not (path.isascii() and path.isdecimal()):
        raise ConfigurationError(
            f"the path of a {scheme} URL is the number of a database: write such as "
            f"{scheme}://host:6379/0; {_ENCODE}"
        )
    if parts.fragment or any("=" not in each for each in parts.query.split("&") if each):
        raise _wrong_url(scheme)


def _wrong_url(scheme: str, type_name: str = "") -> ConfigurationError:
    example = "unix:///run/redis.sock" if scheme == "unix" else f"{scheme}://host:6379/0"
    said = f"redis-py does not accept this {scheme} URL ({type_name})"
    if not type_name:
        said = f"this {scheme} URL is not allowed"
    return ConfigurationError(
        f"{said}: its address or one of its parameters is wrong; write such as {example}; {_ENCODE}"
    )


def _is_address(settings: dict[str, Any]) -> bool:
    """Return whether nothing that settings show of an address can be a user and a password."""
    if "path" in settings:
        return _USER_IN_PATH.search(str(settings["path"])) is None
    host = str(settings.get("host") or "localhost")
    return (_NAME if ":" not in host else _IPV6).fullmatch(host) is not None


def of_client(client: Any) -> Source:
    """Return what connects as a client does.

    Raises:
        ConfigurationError: If it is not a synchronous client of redis-py with a time limit.
    """
    library = redis_library()
    if isinstance(client, library.cluster.RedisCluster):
        node = client.get_default_node()
        pool = _pool_in_cluster(client, node)
        shown = {**pool.connection_kwargs, "host": node.host, "port": node.port}
        source: Source = _Cluster(client, _shown(shown, _scheme(pool, library)))
    elif isinstance(client, library.Redis):
        pool = client.connection_pool
        url = _shown(pool.connection_kwargs, _scheme(pool, library))
        if isinstance(pool, library.sentinel.SentinelConnectionPool):
            shown = {"host": pool.service_name, "db": pool.connection_kwargs.get("db")}
            url = _shown(shown, _scheme(pool, library)).replace(":6379", "")
        source = _OfPool(pool, url)
    else:
        raise ConfigurationError(_why_not(client))
    settings = pool.connection_kwargs
    # Since version 8, redis-py has a limit if none is given. Before 5.0.2, a connection to a
    # socket of Unix did not keep the one that was given.
    limit = settings.get(
        "socket_timeout", _connection(pool.connection_class, settings).socket_timeout
    )
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit <= 0:
        raise ConfigurationError(
            "the client of Redis has no socket_timeout: give it one, such as socket_timeout=1.0"
        )
    return source


def _scheme(pool: Any, library: Any) -> str:
    is_safe = issubclass(pool.connection_class, library.connection.SSLConnection)
    return "rediss" if is_safe else "redis"


class _OfPool(_Settings):
    """Connects as the pool of a client does.

    That of Sentinel is asked for the master, so it has to live as long as this.
    """

    def __init__(self, pool: Any, url: str) -> None:
        super().__init__(pool.connection_class, pool.connection_kwargs, url)
        self._pool = pool


def _why_not(client: Any) -> str:
    kind: type[Any] = type(client)  # pyright: ignore[reportUnknownVariableType]  # anything
    name = f"{kind.__module__}.{kind.__qualname__}"
    if "asyncio" in kind.__module__:
        return f"{name} is an asyncio client: give a synchronous client, such as redis.Redis"
    if kind.__name__ == "Sentinel":
        return f"{name} is not a client: give what its master_for() returns"
    return f"{name} is not a client: give redis.Redis or redis.RedisCluster"


def _shown(settings: dict[str, Any], scheme: str) -> str:
    """Return an address without a user and a password."""
    db = settings.get("db") or 0
    if not _is_address(settings):
        return f"{scheme}://?"
    if "path" in settings:
        return f"unix://{quote(str(settings['path']))}" + (f"?db={db}" if db else "")
    host = str(settings.get("host") or "localhost")
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{scheme}://{shown}:{settings.get('port') or 6379}/{db}"


# Connections.


class Link:
    """One connection, which each command has a time limit for; it connects when it is needed."""

    def __init__(self, source: Source, key: str) -> None:
        self._source = source
        self._key = key
        self._connection: Any = None
        self._process = 0
        """In which it was connected."""
        self._is_stale = False
        """Whether the servers of a cluster have to be found out again."""

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        if self._connection is not None and self._process != os.getpid():
            self.leave()  # forked by something that called no hooks
        return self._connection is not None

    @property
    def socket(self) -> Any:
        """What can be waited for, while it is open."""
        return self._connection._sock  # redis-py has no other way

    def open(self, until: float) -> None:
        """Connect."""
        if self.is_open:
            return
        if self._is_stale:
            self._source.refresh()
            self._is_stale = False
        connection = self._source.connection(self._key)
        _limit(connection, until)
        try:
            connection.connect()
            # A server cuts off who has not given a password and says much, without a clear answer.
            connection.send_command(b"PING", check_health=False)
            try:
                connection.read_response(disable_decoding=True)
            except Exception as error:
                if not is_answer(error) or "NOAUTH" in str(error):
                    raise
            _look_at_release(connection)
        except BaseException:
            self._is_stale = True
            connection.disconnect()
            raise
        self._connection, self._process = connection, os.getpid()

    def call(self, words: list[bytes], until: float) -> Any:
        """Send a command and return its answer; errors are those of redis-py."""
        self.open(until)
        connection = self._connection
        try:
            _limit(connection, until)
            connection.send_command(*words, check_health=False)
            return connection.read_response(disable_decoding=True)
        except BaseException as error:
            if not is_answer(error) or has_moved(error):
                # Also after a limit: the answer would be taken for that of the next command.
                self.close()
                self._is_stale = True
            raise

    def heard(self, until: float) -> list[Any]:
        """Return the messages that have come; one that has begun to come is waited for."""
        found: list[Any] = []
        try:
            _limit(self._connection, until)
            while True:
                if not self._connection.can_read(timeout=0):
                    return found
                found.append(self._connection.read_response(disable_decoding=True))
        except BaseException:
            self.close()
            raise

    def ping(self, until: float) -> list[Any]:
        """Return the messages that were sent before a ping was answered, however it was."""
        found: list[Any] = []
        try:
            _limit(self._connection, until)
            self._connection.send_command(b"PING", check_health=False)
            while True:
                try:
                    answer = self._connection.read_response(disable_decoding=True)
                except Exception as error:
                    if not is_answer(error):
                        raise
                    return found  # the user may not ask
                if answer == b"PONG" or answer[:1] == [b"pong"]:
                    return found
                found.append(answer)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self.is_open:
            connection, self._connection = self._connection, None
            connection.disconnect()

    def leave(self) -> None:
        """Forget the connection of the process that has forked this one.

        The child closes its copy of the descriptor, which the connection does not notice: neither
        is anything sent nor the socket shut down.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            connection._sock = None
            try:
                os.close(sock.detach())
            except OSError:
                pass


def _limit(connection: Any, until: float) -> None:
    """Set how long a connection waits; all reads and writes until the next limit share it."""
    left = until - time.monotonic()
    if left < _LEAST:
        raise StoreError("timeout")
    connection.socket_timeout = connection.socket_connect_timeout = left
    connection.until = until
    sock = getattr(connection, "_sock", None)
    if sock is not None:
        sock.until = until
        sock.settimeout(left)


def _look_at_release(connection: Any) -> None:
    """Refuse a server that is too old, if it tells its release."""
    connection.send_command(b"INFO", b"server", check_health=False)
    try:
        told = connection.read_response(disable_decoding=True)
    except Exception as error:
        if not is_answer(error):
            raise
        return  # the user may not ask
    found = _RELEASE.search(told) if isinstance(told, bytes) else None
    if found is not None and tuple(map(int, found.groups())) < _OLDEST:
        raise StoreError("error", "ServerTooOld")
