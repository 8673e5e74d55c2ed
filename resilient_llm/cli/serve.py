"""``resilient-llm serve``: the admin page of a store, without a service."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm.cli import _store
from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._output import shown
from resilient_llm.cli._remote import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_ANY: Final = ("0.0.0.0", "::")


class _Access(NamedTuple):
    """Who is let in; the token is never shown but in the address that is made for it."""

    token: str
    is_made: bool

    def __repr__(self) -> str:
        return "_Access(…)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Serves the admin page of a store: what is benched for all processes that share it, what "
        "their budgets have spent, and what happens, with buttons to bench and to unbench. "
        "Without --token the command creates a token. It prints the address to open."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm serve --state redis://cache:6379/0\n"
        "  resilient-llm serve --state sqlite:///var/lib/app.db --port 9000\n\n"
        "exit status: 1 if it cannot listen; 2 wrong use; 130 ended by Ctrl-C"
    )
    _store.add_arguments(parser)
    parser.add_argument(
        "--port", type=_port, default=8080, help="the port; 0 for any free port (default: 8080)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the name or address to listen on; any other than that of this machine needs a token "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--token",
        help="the token of the page, at least 16 characters; other users of this machine see it "
        "in the list of processes, so prefer the variable "
        f"(default: {TOKEN_VARIABLE}, else a new one)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until it is interrupted."""
    address = _store.address_of(options)
    if address is None:
        raise UsageError(f"which store? write --state URL, or set {_store.URL_VARIABLE}")
    access = _access(options)
    with _store.shared(address) as store, _listening(options) as listener:
        app = _app(options, access)
        name = f"[{options.host}]" if ":" in options.host else options.host
        token = f"#token={access.token}" if access.is_made else ""
        print(f"http://{name}:{listener.getsockname()[1]}/{token}", flush=True)
        if options.host in _ANY:
            print(
                f"warning: browsers have to ask for localhost or {name}: write the name of this "
                "machine as --host to be asked from others",
                file=sys.stderr,
            )
        try:
            store.read()
        except CommandError as error:  # it may come, and the page shows that it is not there
            print(f"warning: {error}; the page shows when it is", file=sys.stderr)
        _serve(app, listener)
    return 0


def _access(options: argparse.Namespace) -> _Access:
    """Return the token that is given, or a new one.

    Raises:
        UsageError: If none is given and others than this machine could ask.
    """
    if options.token is not None and not options.token.strip():
        raise UsageError("--token is empty: write a value, or leave --token out")
    given = options.token or os.environ.get(TOKEN_VARIABLE, "").strip()
    if given:
        return _Access(given, is_made=False)
    if not _is_loopback(options.host):
        raise UsageError(
            f"--host {shown(options.host)} can be asked by others: set {TOKEN_VARIABLE}, or write "
            "--token"
        )
    return _Access(secrets.token_urlsafe(32), is_made=True)


def _app(options: argparse.Namespace, access: _Access) -> Callable[..., Any]:
    from resilient_llm import ConfigurationError, admin

    name = f"[{options.host}]" if ":" in options.host else options.host
    try:
        return admin.of_store(
            authorize=admin.token(access.token), hosts=dict.fromkeys((*_LOOPBACK, name))
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    except ImportError as error:
        raise CommandError(str(error)) from None


def _listening(options: argparse.Namespace) -> socket.socket:
    """Return a socket that listens.

    Raises:
        CommandError: If that is not possible.
    """
    where = f"{shown(options.host)}:{options.port}"
    try:
        family, *_, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as failure:
        why = getattr(failure, "strerror", None) or type(failure).__name__
        raise CommandError(f"cannot listen at {where}: {why}") from None


def _serve(app: Callable[..., Any], listener: socket.socket) -> None:
    try:
        import uvicorn
    except ImportError:
        raise CommandError('serve needs uvicorn: pip install "resilient-llm[admin]"') from None

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:6]) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:60]!r} is not allowed: write 0 to 65535")
