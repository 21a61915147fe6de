"""The names under which a server without keys answers."""

import ipaddress
import re
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError

_PORT = re.compile(r":\d{0,5}$")


class KnownHosts:
    """Refuses requests whose `Host` is a name that nobody gave this server.

    Where no key is asked for, a web page could otherwise reach the server under a name of its own that is
    made to resolve to this machine (DNS rebinding), and a browser would let it read the answers. Addresses
    are no names: no page is of an origin that it does not come from.

    Args:
        names: beside addresses and `localhost`, without ports, in lower case.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._knows(scope):
            await self.app(scope, receive, send)
            return
        error = ApiError(
            HTTPStatus.FORBIDDEN,
            "Without an API key this server is asked as localhost or by its address; other names must be "
            "listed in its setting allowed_hosts.",
            code="unknown_host",
        )
        await error.response()(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        return len(given) <= 1 and all(self._is_known(value.decode("latin-1").lower()) for value in given)

    def _is_known(self, host: str) -> bool:
        name = _PORT.sub("", host).removesuffix(".")
        if name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
