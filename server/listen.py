"""The listening socket, taken before anything heavy is imported or loaded."""

import socket

from server.config import ConfigError

# A peer that acknowledges nothing, or takes nothing, for so long is given up with what waits for it: it may
# have gone without a word, and it holds a request's place.
GIVEN_UP = 60  # seconds


def _give_up_on_the_silent(sock: socket.socket) -> None:
    """Connections accepted from `sock` inherit these."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", GIVEN_UP // 2),
        ("TCP_KEEPINTVL", GIVEN_UP // 6),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 1000 * GIVEN_UP),
    ):
        if (option := getattr(socket, name, None)) is not None:  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Errors: ConfigError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _give_up_on_the_silent(sock)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from error
    return sock
