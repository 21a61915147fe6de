"""The listening socket, taken before anything heavy is imported or loaded."""

import socket

from server.config import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Errors: ConfigError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from error
    return sock
