"""Guided logprobs over HTTP against Hugging Face models in float32, without caches."""

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from server import embedded
from tests.e2e.client import Http, together, token_ids
from tests.e2e.process import serving

PROMPTS = ("Write a review of the hotel.", "The capital of Tovand is", "We went to the park in", "Thank you")
WEIGHTS: tuple[dict[str, float], ...] = ({}, {"polite": 1.0}, {"brief": 0.5}, {"polite": 2.0, "brief": -0.5})
TOKENS, TOP = 16, 5


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        name: AutoModelForCausalLM.from_pretrained(embedded.path(name), dtype=torch.float32).eval()
        for name in ("base", "polite", "brief")
    }


def ask(http: Http, ids: list[int], weights: dict[str, float]) -> list[dict[int, float]]:
    """The top logprobs of each sampled token, the sampled one first."""
    body: dict[str, Any] = {"model": "demo", "prompt": ids, "max_tokens": TOKENS, "temperature": 0}
    body |= {"logprobs": TOP, "ignore_eos": True, "return_tokens_as_token_ids": True}
    if weights:
        body["decoding"] = {"logits": {"method": "genarm", "weights": weights}}
    logprobs = http.post_ok("text", body)["choices"][0]["logprobs"]
    return [
        {_id(token): value, **{_id(one): each for one, each in top.items()}}
        for token, value, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        )
    ]


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


@torch.inference_mode()
def expected(models: dict[str, Any], ids: list[int], weights: dict[str, float], answer: int) -> torch.Tensor:
    """log-softmax of log pi_base + sum_k w_k log pi_k at the last `answer` positions (GenARM, eq. 8)."""
    batch = torch.tensor([ids])
    total = models["base"](batch).logits[0].double().log_softmax(-1)
    for name, weight in weights.items():
        total = total + weight * models[name](batch).logits[0].double().log_softmax(-1)
    return total.log_softmax(-1)[-answer - 1 : -1]


def test_guided_logprobs_are_hugging_faces_alone_and_together(http: Http, models: dict[str, Any]) -> None:
    check(http, models)


def test_guided_logprobs_are_hugging_faces_where_workers_are_processes(
    tmp_path: Path, models: dict[str, Any]
) -> None:
    with (
        serving(tmp_path / "log", "--engine-args", '{"distributed_executor_backend": "mp"}') as running,
        httpx.Client(base_url=running.url, timeout=120) as session,
    ):
        check(Http(session), models)


def check(http: Http, models: dict[str, Any]) -> None:
    asked = [(token_ids(http, prompt), weights) for prompt in PROMPTS for weights in WEIGHTS]
    calls = [partial(ask, http, ids, weights) for ids, weights in asked]
    for answers in (together(calls), [call() for call in calls]):  # the second time from cached prefixes
        for (ids, weights), positions in zip(asked, answers, strict=True):
            sampled = [next(iter(position)) for position in positions]
            assert len(sampled) == TOKENS
            wanted = expected(models, ids + sampled, weights, TOKENS)
            for row, position in zip(wanted, positions, strict=True):
                for token, value in position.items():
                    assert value == pytest.approx(float(row[token]), abs=1e-4)
                best = row.topk(2).values
                assert row.argmax() == next(iter(position)) or float(best[0] - best[1]) < 1e-4
