"""The mixed traffic: every kind of request the embedded models take, in fixed shares."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.loadtest.client import WORDS

CHAT, TEXT, RANK = "/v1/chat/completions", "/v1/completions", "/v1/rank"
COUNTRIES = ("Tovand", "Meruda", "Kalvia", "Sorin", "Pelmar")

Body = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of request: its route, its body, and how often it comes in the mix."""

    name: str
    route: str
    share: int
    make: Callable[[random.Random], Body]

    def body(self, source: random.Random) -> Body:
        return self.make(source)


def _question(source: random.Random) -> str:
    return source.choice(
        (
            f"What is the capital of {source.choice(COUNTRIES)}?",
            f"What is {source.randrange(10, 99)} + {source.randrange(10, 99)}?",
            f"Write a short story about a {source.choice(WORDS)} and a {source.choice(WORDS)}.",
        )
    )


def _chat(source: random.Random, **fields: Any) -> Body:
    body: Body = {
        "model": "demo",
        "messages": [{"role": "user", "content": _question(source)}],
        "max_tokens": source.randrange(16, 65),
        "temperature": source.choice((0, 1)),
        "seed": source.randrange(1 << 30),
    }
    return {**body, **fields}


def _stream(source: random.Random, **fields: Any) -> Body:
    return _chat(source, stream=True, stream_options={"include_usage": True}, **fields)


def _text(source: random.Random) -> Body:
    prompt = "Tell me about the " + " and the ".join(source.choices(WORDS, k=8))
    return {"model": "demo", "prompt": prompt, "max_tokens": source.randrange(8, 49), "temperature": 1}


def _long(source: random.Random) -> Body:
    notes = " ".join(f"The {source.choice(WORDS)} is by the {source.choice(WORDS)}." for _ in range(40))
    messages = [{"role": "user", "content": f"{notes} Where is the lamp?"}]
    return _stream(source, model="demo:kv50", messages=messages, max_tokens=16)


def _chosen(source: random.Random, **sequence: Any) -> Body:
    decoding = {"sequence": {"candidates": 4, **sequence}}
    return _chat(source, temperature=1, max_tokens=24, decoding=decoding)


def _rank(source: random.Random) -> Body:
    return {"model": "demo", "prompt": _question(source), "candidates": source.sample(WORDS, 4)}


KINDS: tuple[Kind, ...] = (
    Kind("chat, streamed", CHAT, 6, _stream),
    Kind("chat, whole", CHAT, 3, _chat),
    Kind("completion", TEXT, 3, _text),
    Kind("demo:small", CHAT, 2, lambda source: _stream(source, model="demo:small")),
    Kind("demo:ead", CHAT, 2, lambda source: _stream(source, model="demo:ead")),
    Kind("demo:polite+brief", CHAT, 2, lambda source: _stream(source, model="demo:polite+brief")),
    Kind("demo:kv50", CHAT, 1, _long),
    Kind("majority", CHAT, 1, lambda source: _chosen(source, method="majority")),
    Kind("equilibrium", CHAT, 1, lambda source: _chosen(source, method="equilibrium")),
    Kind("rank", RANK, 1, _rank),
)


def drawn(count: int, seed: int, kinds: Sequence[Kind] = KINDS) -> list[tuple[Kind, Body]]:
    """`count` requests of the mix; equal seeds draw equal ones.

    Kinds are dealt, not drawn: any stretch as long as the shares' sum holds the mix exactly, so that short
    stages are alike.
    """
    source = random.Random(seed)
    deck: list[Kind] = []
    requests = []
    for _ in range(count):
        if not deck:
            deck = [kind for kind in kinds for _ in range(kind.share)]
            source.shuffle(deck)
        kind = deck.pop()
        requests.append((kind, kind.body(source)))
    return requests
