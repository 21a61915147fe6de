"""Requests of every kind at once, for tests that disturb a server and count what becomes of each."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.client import TEXT

LONG = {"max_tokens": 1200, "ignore_eos": True, "temperature": 1, "n": 4}
EAD = {"sequence": {"method": "ead", "threshold": 1.0, "window": 2, "dwell": 1}}
CANDIDATES = {"sequence": {"method": "majority", "candidates": 8}}
KINDS: dict[str, dict[str, Any]] = {
    "base": {**TEXT, **LONG, "decoding": {"sequence": {"method": "plain", "engine": "base"}}},
    "small": {**TEXT, **LONG, "decoding": {"sequence": {"method": "plain", "engine": "small"}}},
    "ead": {**TEXT, **LONG, "decoding": EAD},
    "traced": {**TEXT, **LONG, "n": 1, "decoding": {"sequence": {**EAD["sequence"], "trace": True}}},
    "candidates": {**TEXT, **LONG, "n": 1, "decoding": CANDIDATES},
}


@dataclass
class Outcome:
    """What became of one request: its choices' finish reasons, or its error."""

    kind: str
    streamed: bool
    status: int = 0
    reasons: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    broken: str = ""  # how the connection ended, if it did

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.error is None and not self.broken and bool(self.reasons)


def send(url: str, kind: str, streamed: bool, begun: Callable[[], None]) -> Outcome:
    outcome = Outcome(kind, streamed)
    body = {**KINDS[kind], "stream": streamed}
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
            outcome.status = response.status_code
            if not streamed or response.status_code != 200:
                begun()
                whole = json.loads(response.read())
                outcome.error = whole.get("error")
                outcome.reasons = [choice["finish_reason"] for choice in whole.get("choices", ())]
                return outcome
            events = [line.removeprefix("data: ") for line in tell(response.iter_lines(), begun) if line]
            for event in map(json.loads, (one for one in events if one != "[DONE]")):
                outcome.error = outcome.error or event.get("error")
                outcome.reasons += [
                    c["finish_reason"] for c in event.get("choices", ()) if c["finish_reason"]
                ]
    except httpx.TransportError as error:
        outcome.broken = type(error).__name__
    return outcome


def tell(lines: Any, begun: Callable[[], None]) -> Any:
    for line in lines:
        begun()
        yield line


class Load:
    """Every kind of request, streamed and whole, each in a thread; `begun` counts the streams that flow."""

    def __init__(self, url: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
        self.begun: set[str] = set()
        self.kinds = kinds
        self.pool = ThreadPoolExecutor(2 * len(kinds))
        self.futures: list[Future[Outcome]] = []
        for kind in kinds:
            for streamed in (True, False):
                note = (lambda kind=kind: self.begun.add(kind)) if streamed else (lambda: None)
                self.futures.append(self.pool.submit(send, url, kind, streamed, note))

    def outcomes(self, within: float) -> list[Outcome]:
        found = [future.result(within) for future in self.futures]
        self.pool.shutdown()
        return found
