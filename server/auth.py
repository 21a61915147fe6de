"""API keys: kept as hashes, compared in constant time, required on every path that is not listed as open."""

import hashlib
import hmac
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError

ALWAYS_OPEN = frozenset({"/health", "/ready"})


class KeyRing:
    """The keys a server accepts."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [self._hash(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def accepts(self, key: bytes) -> bool:
        given = self._hash(key)
        # Every hash is compared, so that the time does not tell which one matched.
        return sum(hmac.compare_digest(given, known) for known in self._hashes) > 0

    @staticmethod
    def _hash(key: bytes) -> bytes:
        return hashlib.sha256(key).digest()


class RequireKey:
    """Refuses requests without a valid `Authorization: Bearer KEY`.

    The path is the one the router itself matches on, never one rebuilt from headers a client can set.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str]) -> None:
        self.app = app
        self.keys = keys
        self.open_paths = ALWAYS_OPEN | open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self.keys or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http" or not self._authorised(scope):
            await self._refuse(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _authorised(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and self.keys.accepts(key.strip())

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        error = ApiError(
            HTTPStatus.UNAUTHORIZED,
            "A valid API key is required: send the header 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)
