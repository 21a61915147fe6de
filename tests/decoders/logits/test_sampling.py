"""What an OpenAI request asks of sampling acts on the guided distribution, whosever logprobs it reports."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.outputs import CompletionOutput
from vllm.sampling_params import StructuredOutputsParams

from tests.decoders.logits.engines import Ask, Engine, prompt, require_best, require_logprobs
from tests.decoders.logits.models import TOKENS

GUIDED: dict[str, Any] = {"method": "genarm", "weights": {"polite": 1.5, "terse": -0.5}}
MODES = pytest.mark.parametrize("mode", ["guided", "base"])
LOWEST = float("-inf")


def guided(mode: str, **other: Any) -> dict[str, Any]:
    return {**GUIDED, "logprobs": mode, **other}


def answer(engine: Engine, ask: Ask, *others: Ask) -> tuple[CompletionOutput, Tensor]:
    """The request's one choice, and the oracle's log-probabilities of its positions."""
    output = engine.run_checked_logprobs([ask, *others])[0]
    return output.outputs[0], engine.expected(ask, output.outputs[0]).logprobs


def only(logprobs: Tensor, tokens: Sequence[int]) -> Tensor:
    """The same without all other tokens, normalised."""
    kept = torch.full_like(logprobs, LOWEST)
    kept[:, tokens] = logprobs[:, tokens]
    return kept.log_softmax(-1)


def require_digits(engine: Engine, ask: Ask, choice: CompletionOutput) -> None:
    """Each token is the best digit; what a grammar rules out vLLM leaves out of the logprobs too."""
    expected = engine.expected(ask, choice)
    assert set(choice.token_ids) <= set(DIGITS)
    require_best(choice.token_ids, only(expected.logprobs, DIGITS), expected.decided)
    if "structured_outputs" in ask.params:
        of_base = ask.decoding is not None and ask.decoding.get("logprobs") == "base"
        reported = expected.base if of_base else expected.logprobs
        require_logprobs(choice, only(reported, DIGITS), expected.decided)


def taken(logprobs: Tensor, tokens: Sequence[int]) -> Tensor:
    return logprobs.gather(1, torch.tensor(list(tokens))[:, None])[:, 0]


def everything(logprobs: Tensor) -> Tensor:
    return torch.ones(len(logprobs), dtype=torch.bool)


# ---- randomness ------------------------------------------------------------------------------------------


@MODES
def test_tokens_are_drawn_from_the_guided_distribution(roomy: Engine, mode: str) -> None:
    ids, draws, temperature = prompt(30, seed=3), 400, 0.7
    params = {"n": draws, "max_tokens": 1, "temperature": temperature, "seed": 5}
    (output,) = roomy.run([Ask(ids, guided(mode), params)])
    tokens = torch.tensor([choice.token_ids[0] for choice in output.outputs])
    found = roomy.oracle.expected("base", ids, [7], GUIDED)
    frequency = torch.bincount(tokens, minlength=found.logprobs.shape[1]) / draws
    expected = (found.logprobs[0] / temperature).softmax(-1)
    likely = expected.topk(8)
    spread = (likely.values * (1 - likely.values) / draws).sqrt()
    assert ((frequency[likely.indices] - likely.values).abs() < 4 * spread + 1 / draws).all()
    unguided = (found.base[0] / temperature).softmax(-1)[likely.indices]
    assert ((frequency[likely.indices] - unguided).abs() > 4 * spread).any(), "the base would do as well"


@MODES
def test_the_one_most_likely_token_of_a_hot_distribution_is_the_guided_best(roomy: Engine, mode: str) -> None:
    for narrowing in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        params = {"temperature": 1.5, "seed": 1, **narrowing}
        choice, expected = answer(roomy, Ask(prompt(25, seed=4), guided(mode), params))
        require_best(choice.token_ids, expected, everything(expected))


@MODES
def test_nucleus_and_floor_are_those_of_the_guided_distribution(roomy: Engine, mode: str) -> None:
    temperature = 1.2
    params = {"temperature": temperature, "seed": 2, "max_tokens": 40}
    for name, bound in (("top_k", 3), ("top_p", 0.5), ("min_p", 0.3)):
        choice, logprobs = answer(roomy, Ask(prompt(25, seed=4), guided(mode), {**params, name: bound}))
        probabilities = (logprobs / temperature).softmax(-1)
        own = taken(probabilities, choice.token_ids)[:, None]
        if name == "top_k":
            assert ((probabilities > own).sum(-1) < bound).all()
        elif name == "top_p":
            ahead = torch.where(probabilities > own, probabilities, 0.0).sum(-1)
            assert (ahead < bound + 1e-3).all()
        else:
            assert (own[:, 0] >= bound * probabilities.max(-1).values - 1e-4).all()
        assert (own[:, 0] < probabilities.max(-1).values).any(), "nothing was left to chance"


@MODES
def test_a_seed_gives_the_same_answer_alone_and_among_others(roomy: Engine, mode: str) -> None:
    ask = Ask(prompt(30, seed=6), guided(mode), {"temperature": 1.0, "top_p": 0.95, "seed": 9})
    others = [Ask(prompt(9 + i, seed=i), guided(mode), {"temperature": 1.0, "seed": i}) for i in range(3)]
    alone, _ = answer(roomy, ask)
    among, _ = answer(roomy, ask, *others)
    other, _ = answer(roomy, Ask(ask.prompt, ask.decoding, {**ask.params, "seed": 10}))
    (plain,) = roomy.run([Ask(ask.prompt, None, ask.params)])
    assert list(alone.token_ids) == list(among.token_ids)
    assert list(alone.token_ids) != list(other.token_ids)
    assert list(alone.token_ids) != list(plain.outputs[0].token_ids)


@MODES
def test_whose_logprobs_are_reported_does_not_change_what_is_drawn(roomy: Engine, mode: str) -> None:
    params = {"temperature": 0.9, "seed": 4, "max_tokens": 20}
    choices = [answer(roomy, Ask(prompt(30, seed=7), guided(one), params))[0] for one in ("guided", mode)]
    assert list(choices[0].token_ids) == list(choices[1].token_ids)


def test_choices_of_one_request_are_guided_and_unlike(roomy: Engine) -> None:
    params = {"temperature": 1.0, "seed": 11, "n": 2}
    (output,) = roomy.run_checked([Ask(prompt(30, seed=8), GUIDED, params)])
    first, second = output.outputs
    assert list(first.token_ids) != list(second.token_ids)


# ---- biases, penalties, bans -----------------------------------------------------------------------------


@MODES
def test_a_logit_bias_is_added_to_guided_logits_and_not_reported(roomy: Engine, mode: str) -> None:
    plain, _ = answer(roomy, Ask(prompt(30, seed=9), guided(mode)))
    bias = {int(plain.token_ids[0]): -100.0, 77: 4.0, 500: 5.5, 1000: 3.0}
    choice, logprobs = answer(roomy, Ask(prompt(30, seed=9), guided(mode), {"logit_bias": bias}))
    for token, value in bias.items():
        logprobs[:, token] += value
    require_best(choice.token_ids, logprobs, everything(logprobs))
    assert choice.token_ids[0] != plain.token_ids[0]


@MODES
def test_penalties_are_taken_from_guided_logits(roomy: Engine, mode: str) -> None:
    # Without the bias nothing would come twice, and without penalties nothing else.
    bias = {100: 30.0, 200: 29.0, 300: 28.5}
    params = {"presence_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": bias, "max_tokens": 30}
    choice, logprobs = answer(roomy, Ask(prompt(30, seed=10), guided(mode), params))
    counts = torch.zeros(logprobs.shape[1], dtype=torch.float64)
    for token, value in bias.items():
        logprobs[:, token] += value
    for row, token in zip(logprobs, choice.token_ids, strict=True):
        row -= 1.0 * counts + 1.5 * (counts > 0)
        counts[token] += 1
    require_best(choice.token_ids, logprobs, everything(logprobs))
    assert len(set(choice.token_ids)) >= 3
    assert counts.max() >= 2


@MODES
def test_only_allowed_tokens_and_no_bad_words(roomy: Engine, mode: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(roomy.oracle.paths["base"])
    words = [token for token in range(300, TOKENS) if _is_word(tokenizer, token)][:40]
    ask = Ask(prompt(30, seed=11), guided(mode), {"allowed_token_ids": words})
    choice, logprobs = answer(roomy, ask)
    require_best(choice.token_ids, only(logprobs, words), everything(logprobs))

    worst = tokenizer.decode([choice.token_ids[0]]).strip()
    banned = Ask(ask.prompt, ask.decoding, {**ask.params, "bad_words": [worst]})
    other, logprobs = answer(roomy, banned)
    rest = [word for word in words if word != choice.token_ids[0]]
    require_best(other.token_ids, only(logprobs, rest), everything(logprobs))


def _is_word(tokenizer: Any, token: int) -> bool:
    text = tokenizer.decode([token])
    return text[:1] == " " and text[1:].isalpha() and tokenizer.encode(text)[-1] == token


@MODES
def test_a_stop_token_waits_for_min_tokens(roomy: Engine, mode: str) -> None:
    plain, _ = answer(roomy, Ask(prompt(30, seed=12), guided(mode)))
    stop = int(plain.token_ids[0])
    params = {"ignore_eos": False, "stop_token_ids": [stop], "min_tokens": 3, "logit_bias": {stop: 50.0}}
    choice, logprobs = answer(roomy, Ask(prompt(30, seed=12), guided(mode), params))
    assert list(choice.token_ids)[3:] == [stop]
    logprobs[:3, [stop, 2]] = LOWEST
    require_best(choice.token_ids[:3], logprobs[:3], everything(logprobs[:3]))


# ---- structured outputs ----------------------------------------------------------------------------------

STRONG: dict[str, Any] = {"method": "genarm", "weights": {"terse": 25.0}}
DIGITS = list(range(21, 31))


def grammar(**kind: Any) -> dict[str, Any]:
    return {"structured_outputs": StructuredOutputsParams(**kind), "ignore_eos": False}


def text(engine: Engine, choice: CompletionOutput) -> str:
    """The answer alone. vLLM's own text may repeat the end of a random prompt that is no valid UTF-8."""
    tokenizer = AutoTokenizer.from_pretrained(engine.oracle.paths["base"])
    return tokenizer.decode(choice.token_ids, skip_special_tokens=True)


@MODES
def test_a_strong_guide_cannot_leave_the_grammar(roomy: Engine, mode: str) -> None:
    strong = {**STRONG, "logprobs": mode}
    choices = ["yes", "no", "perhaps not"]
    asks = [
        Ask(prompt(20, seed=13), strong, grammar(choice=choices)),
        Ask(prompt(20, seed=14), None, grammar(choice=choices)),
        Ask(prompt(20, seed=15), strong, {**grammar(choice=choices), "temperature": 2.0, "seed": 1}),
        Ask(prompt(20, seed=16), strong, grammar(regex="[0-9]{3}-[a-f]{2}")),
        Ask(prompt(20, seed=17), strong),
    ]
    texts = [text(roomy, output.outputs[0]) for output in roomy.run(asks)]
    assert set(texts[:3]) <= set(choices)
    digits, letters = texts[3].split("-")
    assert digits.isdigit()
    assert len(digits) == 3
    assert len(letters) == 2
    assert set(letters) <= set("abcdef")


@MODES
@pytest.mark.parametrize("seed", range(3))
def test_within_the_grammar_the_guided_best_is_taken(roomy: Engine, mode: str, seed: int) -> None:
    ask = Ask(prompt(20, seed=20 + seed), guided(mode), {**grammar(regex="[0-9]{20}"), "max_tokens": 8})
    free = Ask(prompt(22, seed=2), GUIDED)
    plain = Ask(prompt(20, seed=1), None, ask.params)
    bound, *_, unguided = roomy.run([ask, Ask(prompt(20, seed=1)), free, plain])
    require_digits(roomy, ask, bound.outputs[0])
    require_digits(roomy, plain, unguided.outputs[0])


# ---- what guidance looks at is the base's own distribution -----------------------------------------------

LOOKING: dict[str, dict[str, Any]] = {
    "gate": {**GUIDED, "entropy_gate": 4.5},
    "fusion": {"method": "dynamic_fusion", "experts": ["polite", "terse"], "small": "brief"},
}
MASKED: dict[str, Any] = {"method": "linear", "weights": {"polite": -2.0}, "alpha": 0.01}
RESTRICTED: dict[str, dict[str, Any]] = {
    "grammar": grammar(regex="[0-9]{20}"),
    "allowed": {"allowed_token_ids": DIGITS},
}
ONLY = pytest.mark.parametrize("params", RESTRICTED.values(), ids=RESTRICTED)
LOOKS = pytest.mark.parametrize("asked", LOOKING.values(), ids=LOOKING)


@MODES
@LOOKS
@ONLY
def test_gate_and_alpha_do_not_depend_on_what_a_restriction_leaves(
    roomy: Engine, asked: dict[str, Any], mode: str, params: dict[str, Any]
) -> None:
    ask = Ask(prompt(40, seed=30), {**asked, "logprobs": mode}, {**params, "max_tokens": 12})
    (output,) = roomy.run([ask])
    require_digits(roomy, ask, output.outputs[0])


@MODES
@pytest.mark.parametrize("asked", [*LOOKING.values(), MASKED], ids=[*LOOKING, "mask"])
def test_gate_mask_and_alpha_do_not_depend_on_a_bias(roomy: Engine, asked: dict[str, Any], mode: str) -> None:
    bias = dict.fromkeys(DIGITS, 20.0)
    ask = Ask(prompt(40, seed=31), {**asked, "logprobs": mode}, {"logit_bias": bias})
    choice, logprobs = answer(roomy, ask)
    logprobs[:, DIGITS] += 20.0
    require_best(choice.token_ids, logprobs, roomy.expected(ask, choice).decided)


@MODES
@ONLY
def test_a_mask_does_not_break_a_restriction(roomy: Engine, mode: str, params: dict[str, Any]) -> None:
    """Where the base finds no allowed token plausible, an allowed one is taken all the same."""
    ask = Ask(prompt(40, seed=32), {**MASKED, "logprobs": mode}, {**params, "max_tokens": 12})
    (output,) = roomy.run([ask])
    choice = output.outputs[0]
    assert set(choice.token_ids) <= set(DIGITS)
    assert len(choice.token_ids) == 12
    assert not any(math.isnan(one.logprob) for position in choice.logprobs for one in position.values())
