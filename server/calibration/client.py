"""Questions to a Decant server, each answered whole."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from server.calibration.data import Prompt
from server.calibration.errors import CalibrationError, Refused

CONNECT_SECONDS: Final = 10.0
BUSY_TRIES: Final = 120
BUSY_SECONDS: Final = 2.0  # between tries, where the server names no time
REFUSALS: Final = (400, 403, 404, 405, 413, 415, 422)  # that another request need not meet


@dataclass(frozen=True)
class Pair:
    """The engines that are calibrated and the model id they are asked under."""

    served: str
    small: str
    large: str
    models: tuple[str, str]

    def record(self) -> dict[str, Any]:
        return {
            "served": self.served,
            "small": self.small,
            "large": self.large,
            "models": list(self.models),
        }


@dataclass(frozen=True)
class Reply:
    """A response's body; began, ended: seconds of `time.monotonic`."""

    body: Mapping[str, Any]
    began: float
    ended: float


class Client:
    """Use as an async context manager.

    Args:
        url: the server's address, without /v1.
        key: its API key, None if it needs none.
        concurrency: connections at once.
        own: the server is one of ours on loopback: no proxy stands between.
    """

    def __init__(self, url: str, key: str | None, concurrency: int, *, own: bool = False) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # a long answer may take any time
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=not own,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def pair(self, model: str | None, small: str | None, large: str | None) -> Pair:
        """Who is calibrated. Raises CalibrationError where the server offers no EAD or no such engine."""
        offered = self._read(await self._send("GET", "/v1/decoding/methods"))
        try:
            engines, default = offered["engines"], offered["default_engine"]
            method = next(one for one in offered["layers"]["sequence"] if one["method"] == "ead")
            served = model or self._read(await self._send("GET", "/v1/models"))["data"][0]["id"]
        except (KeyError, IndexError, TypeError, StopIteration):
            raise CalibrationError(f"url: {self.url} is no Decant server, or has no 'ead'") from None
        if not method["offered"]:
            raise CalibrationError(f"the server at {self.url} does not offer 'ead': {method['reason']}")
        for role, name in (("small", small), ("large", large)):
            if name is not None and name not in engines:
                raise CalibrationError(f"{role} must be one of the server's engines: {', '.join(engines)}")
        chosen = large or next(name for name in (default, *engines) if name != small)
        others = [name for name in engines if name != chosen]
        if small is None and len(others) > 1:
            raise CalibrationError(f"small must be named, one of: {', '.join(others)}")
        little = small or others[0]
        if little == chosen:
            raise CalibrationError(f"small and large must be different engines; both are {little}")
        return Pair(served, little, chosen, (engines[little]["model"], engines[chosen]["model"]))

    async def ask(
        self,
        prompt: Prompt,
        *,
        served: str,
        sequence: Mapping[str, Any],
        max_tokens: int,
        as_text: bool,
        salt: str,
    ) -> Reply:
        """One greedy answer. salt: requests of other salts share no cached blocks with this one.

        Raises CalibrationError, which names the prompt's line, for what the server refuses.
        """
        body = {
            "model": served,
            "temperature": 0,
            "max_tokens": max_tokens,
            "return_token_ids": True,
            "cache_salt": salt,
            "decoding": {"sequence": dict(sequence), "report": True},
        }
        path, asked = question(prompt.ask, as_text)
        return await self.post(path, {**body, **asked}, f"line {prompt.line}: ")

    async def get(self, path: str) -> dict[str, Any]:
        """The body at this path. Raises Refused for HTTP 4xx, CalibrationError for other failures."""
        return self._read(await self._send("GET", path))

    async def post(self, path: str, body: Mapping[str, Any], about: str = "") -> Reply:
        """The reply to one request, which waits while the server is at its limit.

        Raises CalibrationError, beginning with `about`, for what the server refuses.
        """
        for _ in range(BUSY_TRIES):
            began = time.monotonic()
            response = await self._send("POST", path, json=body)
            if not _is_busy(response):
                return Reply(self._read(response, about), began, time.monotonic())
            await asyncio.sleep(_wait(response))
        raise CalibrationError(f"the server at {self.url} stays at its limit of requests")

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise CalibrationError(f"the server at {self.url} does not answer: {reason}") from error

    def _read(self, response: httpx.Response, about: str = "") -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise CalibrationError(f"the server at {self.url} wants another API key")
        if response.status_code != httpx.codes.OK or not isinstance(body, dict):
            said = body.get("error") if isinstance(body, dict) else None
            message = said.get("message") if isinstance(said, dict) else None
            field = said.get("param") if isinstance(said, dict) else None
            status = f"HTTP {response.status_code}" + (f", {field}" if field else "")
            kind = Refused if response.status_code in REFUSALS else CalibrationError
            raise kind(f"{about}the server answers {status}: {message or 'no JSON object'}")
        return body


def question(ask: str | list[dict[str, Any]], as_text: bool) -> tuple[str, dict[str, Any]]:
    """A question's route, and the fields that hold it. as_text: complete a prompt as it stands."""
    if isinstance(ask, list):
        return "/v1/chat/completions", {"messages": ask}
    if as_text:
        return "/v1/completions", {"prompt": ask}
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": ask}]}


def _is_busy(response: httpx.Response) -> bool:
    """Whether the same request may be taken later: a full server, or a key that has used up its minute."""
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return "Retry-After" in response.headers
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and _code(response) == "overloaded"


def _wait(response: httpx.Response) -> float:
    """Seconds. Retry-After may be a date, which says no more than to wait a while."""
    try:
        return min(60.0, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return BUSY_SECONDS


def _code(response: httpx.Response) -> str | None:
    try:
        code: str | None = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code
