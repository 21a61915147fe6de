"""API keys: kept as hashes, compared in constant time, required on every path that is not listed as open."""

import hmac
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError
from server.keys import ApiKey, digest_of

KEY = "decant.key"  # where a request's scope holds the name of its key
ALWAYS_OPEN = frozenset({"/health", "/ready"})


class KeyRing:
    """The keys a server accepts."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = list(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def name_of(self, key: bytes) -> str | None:
        """The name of the key that `key` is, None if it is none of them."""
        given, name = digest_of(key), None
        # Every hash is compared, so that the time does not tell which one matched.
        for known in self._keys:
            if hmac.compare_digest(given, known.digest):
                name = known.name
        return name


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
        name = self._key(scope) if scope["type"] == "http" else None
        if name is None:
            await self._refuse(scope, receive, send)
            return
        scope[KEY] = name
        await self.app(scope, receive, send)

    def _key(self, scope: Scope) -> str | None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return None
        scheme, _, key = given[0].partition(b" ")
        return self.keys.name_of(key.strip()) if scheme.lower() == b"bearer" else None

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
