"""Who may run: limits on one request, and slots that bound all of them together."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.method import ChoosingMethod, SequenceMethod
from decoders.request import Decoding
from server.body import INT64
from server.call import Call
from server.config import LimitSettings
from server.errors import RETRY_AFTER, ApiError, invalid, unavailable
from server.metrics import METRICS
from server.requests import ChatRequest, GeneratingRequest, TextRequest, decoding_of

RECENT = 16  # requests over which holding times are averaged, or as many as run at once
LATEST_RETRY = 60  # seconds; the most that Retry-After says


def admit(
    request: GeneratingRequest, presets: dict[str, Decoding], deployment: Deployment, limits: LimitSettings
) -> Call:
    """The call this request amounts to, or an ApiError 400 that names the field at fault."""
    check_limits(request, limits)
    decoding = decoding_of(request).over(presets.get(request.model or ""))
    try:
        decoding.admit(deployment)
        if request.use_beam_search and (decoding.layers() or decoding.report):
            raise Refusal(
                "Beam search cannot be combined with 'decoding'; leave one of them out.", "use_beam_search"
            )
        _check_candidates(request, decoding.sequence_method(), limits)
    except Refusal as refusal:
        raise ApiError.of(refusal) from None
    call = Call(decoding, decoding.new_report(), candidate_tokens=limits.candidate_tokens)
    for method in (decoding.sequence_method(), *decoding.engine_methods()):
        METRICS.asked.labels(method.layer, method.method).inc()
    request._call = call
    return call


def _check_candidates(request: GeneratingRequest, method: SequenceMethod, limits: LimitSettings) -> None:
    """Raise Refusal for more candidates than are allowed, or for what only one prompt can be asked."""
    if not isinstance(method, ChoosingMethod):
        return
    if method.most_candidates() > limits.candidates:
        raise Refusal(
            f"At most {limits.candidates} candidates are allowed in one request on this server.",
            "decoding.sequence.candidates",
        )
    if _prompts(request) > 1:
        raise Refusal(f"Method '{method.method}' takes one prompt a request.", "prompt")


def check_limits(request: GeneratingRequest, limits: LimitSettings) -> None:
    prompts = _prompts(request)
    n = 1 if request.n is None else request.n
    _bound("n", n, 1, limits.n)
    if n * prompts > limits.sequences:
        param = "n" if n > 1 else "prompt"
        raise invalid(f"n times the number of prompts may be at most {limits.sequences} here.", param)
    most = limits.max_tokens or INT64 - 1
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        _bound("max_completion_tokens", request.max_completion_tokens, 1, most)
    elif request.max_tokens is not None:
        _bound("max_tokens", request.max_tokens, 0 if request.echo else 1, most)
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        value = getattr(request, name, None)
        if value is not None and not isinstance(value, bool):
            _bound(name, value, 0, limits.logprobs)
    for name in ("bad_words", "stop_token_ids", "logprob_token_ids"):
        if len(getattr(request, name, None) or ()) > limits.list_items:
            raise invalid(f"At most {limits.list_items} items are allowed.", name)
    _check_logit_bias(request.logit_bias, limits.logit_bias)
    if any(name.startswith("decant.") for name in request.vllm_xargs or {}):
        raise invalid("Names that begin with 'decant.' are reserved.", "vllm_xargs")
    if (request.cache_salt or "").startswith("decant."):
        raise invalid("Salts that begin with 'decant.' are reserved.", "cache_salt")


def _prompts(request: GeneratingRequest) -> int:
    if not isinstance(request, TextRequest):
        return 1
    prompt = request.prompt
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        return len(prompt)
    return 1


def _bound(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        allowed = f"at least {least}" if most == INT64 - 1 else f"between {least} and {most} on this server"
        raise invalid(f"{name} must be {allowed}.", name)


def _check_logit_bias(bias: dict[str, float] | None, most: int) -> None:
    if not bias:
        return
    if len(bias) > most:
        raise invalid(f"At most {most} entries are allowed.", "logit_bias")
    for token, value in bias.items():
        if not token.isascii() or not token.isdigit():
            raise invalid("The keys must be token ids: non-negative integers as strings.", "logit_bias")
        if not -100 <= value <= 100:
            raise invalid("The values must be between -100 and 100.", "logit_bias")


class Slots:
    """At most `running` requests at once; others wait in line, first come first served.

    The line takes no more than `waiting` requests, and none whose turn is expected to come later than in
    `seconds`: with all slots busy one falls free every holding time / `running` (Little's law). A line that
    is bounded by its length alone takes longer the longer answers are, and everybody waits.

    Args:
        running: how many may run.
        waiting: how many may wait.
        seconds: longest wait expected of a newcomer; None for no bound.
        clock: seconds, for the holding times.
    """

    def __init__(
        self,
        running: int,
        waiting: int,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = running
        self.capacity = running + waiting
        self.seconds = seconds
        self.clock = clock
        self.held = 0
        self.closed: ApiError | None = None  # what newcomers are told once the server takes no more
        self.holding: float | None = None  # mean seconds for which the last slots were held
        self._running = asyncio.Semaphore(running)
        self._idle = asyncio.Event()
        self._idle.set()

    def expected_wait(self) -> float:
        """Seconds until a newcomer's turn, as far as can be told: 0 with a free slot or before any answer."""
        ahead = self.held - self.slots + 1
        return 0.0 if ahead <= 0 or self.holding is None else ahead * self.holding / self.slots

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a slot, after waiting in line; ApiError 503 if the line is too long or the server drains."""
        if self.closed is not None:
            METRICS.rejected.labels(self.closed.code).inc()
            raise self.closed
        wait = self.expected_wait()
        if self.held >= self.capacity or (self.seconds is not None and wait > self.seconds):
            METRICS.rejected.labels("overloaded").inc()
            message = "The server is at its limit of requests; try again later."
            raise unavailable(message, "overloaded", min(max(RETRY_AFTER, math.ceil(wait)), LATEST_RETRY))
        self._count(+1)
        try:
            METRICS.queued.inc()
            began = self.clock()
            try:
                await self._running.acquire()
            finally:
                METRICS.queued.dec()
                METRICS.slot_wait.of().observe(self.clock() - began)
            began = self.clock()
            try:
                yield
            finally:
                self._running.release()
                self._learn(self.clock() - began)
        finally:
            self._count(-1)

    def _learn(self, seconds: float) -> None:
        if self.holding is None:
            self.holding = seconds
        else:
            self.holding += (seconds - self.holding) / max(RECENT, self.slots)

    def _count(self, change: int) -> None:
        self.held += change
        METRICS.in_flight.set(self.held)
        if self.held:
            self._idle.clear()
        else:
            self._idle.set()

    async def idle(self, within: float) -> bool:
        """Wait until no request holds a slot; False if that takes longer than `within` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), within)
        except TimeoutError:
            return False
        return True
