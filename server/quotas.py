"""What each API key may use: requests at once, requests and tokens a minute; and who pays for what."""

import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import GracefulHTTPError

from server.auth import KEY
from server.errors import ApiError
from server.limits import KeyLimits
from server.metrics import METRICS

BILL = "decant.bill"  # where a request's scope holds its bill
ANYONE = "anyone"  # whom requests are booked on where no keys are configured
Clock = Callable[[], float]


class Bucket:
    """An allowance of `per_minute` units that fills continuously up to one minute's worth.

    What could not be foreseen is taken all the same, so that the level may be below zero; it is made up for
    before anything else is let through. Over any time the use is bounded by the rate, whatever it was that
    was foreseen.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.capacity = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def level(self) -> float:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self.capacity / 60)
        self._at = now
        return self._level

    def take(self, units: int) -> None:
        self._level = self.level() - units

    def wait(self, units: int) -> float:
        """Seconds until `units` are there, or all there can be; 0 if they are."""
        return max(0.0, (min(units, self.capacity) - self.level()) * 60 / self.capacity)

    def refill(self) -> float:
        """Seconds until the level is the capacity."""
        return self.wait(self.capacity)


class Account:
    """The use of one API key. Its size does not depend on how much is used."""

    def __init__(self, name: str, limits: KeyLimits, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.limits = limits
        self.running = 0
        self.buckets = {
            kind: Bucket(per_minute, clock)
            for kind, per_minute in (
                ("requests", limits.requests_per_minute),
                ("tokens", limits.tokens_per_minute),
            )
            if per_minute is not None
        }

    def enter(self) -> None:
        """Book one request until `leave`. Errors: ApiError 429."""
        most = self.limits.concurrent_requests
        if most is not None and self.running >= most:
            raise self.refusal(
                f"At most {most} requests at once are allowed with this API key.", "concurrent"
            )
        for kind, bucket in self.buckets.items():
            if seconds := bucket.wait(1):
                raise self.exhausted(kind, seconds)
        if requests := self.buckets.get("requests"):
            requests.take(1)
        self.running += 1

    def leave(self) -> None:
        self.running -= 1

    def exhausted(self, kind: str, seconds: float) -> ApiError:
        allowed = self.buckets[kind].capacity
        message = f"At most {allowed} {kind} a minute are allowed with this API key."
        return self.refusal(message, kind, seconds)

    def refusal(self, message: str, limit: str, seconds: float = 1.0) -> ApiError:
        """429 with the seconds until another try may succeed."""
        METRICS.rate_limited.labels(self.name, limit).inc()
        headers = {"Retry-After": str(max(1, math.ceil(seconds))), **self.headers()}
        return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded", headers=headers)

    def headers(self) -> dict[str, str]:
        """OpenAI's x-ratelimit headers of the limits that there are."""
        headers = {}
        for kind, bucket in self.buckets.items():
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level())))
            headers[f"x-ratelimit-reset-{kind}"] = duration(bucket.refill())
        return headers


class RateLimited(GracefulHTTPError):
    """A refusal that is known only inside vLLM's handlers; the request's bill holds it whole."""

    def __init__(self, refusal: ApiError) -> None:
        super().__init__(str(refusal.detail), HTTPStatus.TOO_MANY_REQUESTS)


class Bill:
    """What one request costs its account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.refusal: ApiError | None = None
        self.prompted = False

    def admit_prompt(self, tokens: int) -> None:
        """Book a prompt's tokens. Errors: RateLimited while the account has too few of them left.

        A prompt longer than a minute's tokens waits for all there can be, and leaves a debt.
        """
        self.prompted = True
        if bucket := self.account.buckets.get("tokens"):
            if seconds := bucket.wait(tokens):
                self.refusal = self.account.exhausted("tokens", seconds)
                raise RateLimited(self.refusal)
            bucket.take(tokens)
        METRICS.key_tokens.labels(self.account.name, "prompt").inc(tokens)

    def spend(self, tokens: int) -> None:
        """Book tokens that were computed beyond the prompt."""
        if bucket := self.account.buckets.get("tokens"):
            bucket.take(tokens)
        METRICS.key_tokens.labels(self.account.name, "completion").inc(tokens)


CURRENT: ContextVar[Bill | None] = ContextVar("bill", default=None)


def spend(tokens: int) -> None:
    """Book tokens on the request this is part of, if it has a bill."""
    if tokens and (bill := CURRENT.get()) is not None:
        bill.spend(tokens)


class Quotas:
    """Holds every POST request against the limits of its key, before its body is read."""

    def __init__(self, app: ASGIApp, accounts: Mapping[str, Account]) -> None:
        self.app = app
        self.accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        account = self.accounts.get(scope.get(KEY, ANYONE))
        if account is None:  # an open path of a server with keys, asked without one
            await self.app(scope, receive, send)
            return
        try:
            account.enter()
        except ApiError as refusal:
            await refusal.response()(scope, receive, send)
            return
        scope[BILL] = bill = Bill(account)
        token = CURRENT.set(bill)
        try:
            await self.app(scope, receive, send)
        finally:
            CURRENT.reset(token)
            account.leave()


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
