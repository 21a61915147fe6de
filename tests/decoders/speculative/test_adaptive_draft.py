"""How long adaptive drafts are: by a Hugging Face model's entropies, drafting with the target itself."""

import itertools
import math

import pytest
import torch
from transformers import LlamaForCausalLM

from decoders.speculative.bound import HIGHEST, StopRule
from tests.decoders.speculative.engines import Engine, drafted_per_step, prompts

GAMMA, MOST = 0.2, 5


def bounds(path: str, prompt: list[int], answer: list[int]) -> list[float]:
    """1 - sqrt(gamma H) before each token of the answer."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return [1 - math.sqrt(GAMMA * nats) for nats in entropy.tolist()]


def expected_drafts(bound: list[float], stop: float) -> list[int]:
    """Lengths of the drafts that are made, where every draft is accepted."""
    lengths, position = [], 1  # the prompt's own step gives the first token
    while position < len(bound):
        drafted = sum(1 for _ in itertools.takewhile(lambda b: b >= stop, bound[position : position + MOST]))
        lengths.append(drafted)
        position += drafted + 1
    return [length for length in lengths if length]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_drafts_end_where_the_bound_falls_under_stop(models: dict[str, str], share: float) -> None:
    given = prompts(6, 60)
    answers = Engine(models["target"]).tokens(given)
    bound = [bounds(models["target"], *pair) for pair in zip(given, answers, strict=True)]
    # So that this share of the tokens stops a draft; halfway between two bounds, never upon one.
    ordered = sorted(value for one in bound for value in one)
    place = int(share * len(ordered))
    stop = (ordered[place - 1] + ordered[place]) / 2
    assert 0 <= stop <= 1
    settings = {"method": "adaptive_draft", "model": models["target"], "max_draft_tokens": MOST}
    settings |= {"gamma": GAMMA, "stop": stop, "adapt": False, "governor": False}
    outputs = Engine(models["target"], settings).run(given)
    seen = set()
    for output, one, answer in zip(outputs, bound, answers, strict=True):
        assert list(output.outputs[0].token_ids) == answer
        drafted, expected = drafted_per_step(output.outputs[0]), expected_drafts(one, stop)
        # What the last draft holds beyond the answer's end nobody knows.
        assert drafted[: len(expected) - 1] == expected[:-1]
        assert len(drafted) in (len(expected), len(expected) + 1)
        seen |= set(drafted)
    assert len(seen) > 2


@pytest.mark.parametrize(("stop", "drafted"), [(1.0, False), (0.0, True)])
def test_the_ends_of_stop(models: dict[str, str], stop: float, drafted: bool) -> None:
    settings = {"method": "adaptive_draft", "model": models["target"], "max_draft_tokens": MOST}
    settings |= {"gamma": 0.001, "stop": stop, "adapt": False, "governor": False}
    (output,) = Engine(models["target"], settings).run(prompts(1, 40))
    lengths = drafted_per_step(output.outputs[0])
    assert set(lengths) == ({MOST} if drafted else set())


def test_the_rule_is_the_papers() -> None:
    rule = StopRule(gamma=0.2, stop=0.5, target_acceptance=None)
    # H = log n over n tokens: 1 - sqrt(0.2 log 3) = 0.531, 1 - sqrt(0.2 log 4) = 0.473.
    logits = torch.full((3, 8), float("-inf"))
    logits[0, :3], logits[1, :4], logits[2, 0] = 0.0, 0.0, 0.0
    assert rule.goes_on(logits).tolist() == [True, False, True]
    rule.observe(10, 0)
    assert rule.stop == 0.5


def test_stop_follows_what_is_accepted() -> None:
    rule = StopRule(gamma=0.2, stop=0.5, target_acceptance=0.8)
    for _ in range(200):
        rule.observe(4, 1)
    refused = rule.stop
    assert 0.6 < refused <= HIGHEST
    for _ in range(200):
        rule.observe(4, 4)
    assert rule.stop < refused - 0.1
    lowered = rule.stop
    for _ in range(100):
        rule.observe(0, 0)
    assert rule.stop < lowered, "where nothing is drafted it must find out again"
    for _ in range(5000):
        rule.observe(4, 0)
    assert rule.stop <= HIGHEST
