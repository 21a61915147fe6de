"""What the worker says it did for a request: the tokens decided, those guided, dynamic fusion's alphas."""

from typing import Any

import pytest
from vllm.outputs import CompletionOutput

from tests.decoders.logits.engines import Ask, Engine, prompt

PLAIN: dict[str, Any] = {"method": "genarm", "weights": {"polite": 1.0}}
GATED = {**PLAIN, "entropy_gate": 5.0}
FUSION: dict[str, Any] = {"method": "dynamic_fusion", "experts": ["polite", "terse"], "small": "brief"}
KINDS = {
    "genarm": PLAIN,
    "gated": GATED,
    "never": {**PLAIN, "entropy_gate": 30.0},
    "base's logprobs": {**GATED, "logprobs": "base"},
    "linear": {"method": "linear", "weights": {"terse": -0.5}, "alpha": 0.1, "entropy_gate": 5.2},
    "fusion": FUSION,
    "fusion gated": {**FUSION, "entropy_gate": 5.0, "logprobs": "base"},
}


def expected_outcome(engine: Engine, ask: Ask, choice: CompletionOutput) -> dict[str, Any]:
    """The oracle's account of one choice."""
    found = engine.expected(ask, choice)
    assert found.decided.all(), "choose another prompt: the oracle is in doubt"
    outcome: dict[str, Any] = {"tokens": len(choice.token_ids), "guided": int(found.opened.sum())}
    if found.alphas is not None:
        names = (ask.decoding or {})["experts"]
        outcome["alphas"] = {
            name: pytest.approx(row.tolist(), abs=1e-4) for name, row in zip(names, found.alphas, strict=True)
        }
        outcome["mean_alpha"] = {
            name: pytest.approx(float(row.mean()), abs=1e-3)
            for name, row in zip(names, found.alphas, strict=True)
        }
    return outcome


def require_outcomes(engine: Engine, asks: list[Ask]) -> None:
    for ask, output in zip(asks, engine.run_checked(asks), strict=True):
        found = engine.outcome(str(ask.report))
        by_size = sorted(found, key=lambda one: (one["tokens"], one["guided"]))
        expected = [expected_outcome(engine, ask, choice) for choice in output.outputs]
        assert by_size == sorted(expected, key=lambda one: (one["tokens"], one["guided"]))
        assert engine.outcome(str(ask.report)) == []
    assert engine.model.channel.outcomes == {}


@pytest.mark.parametrize("asked", KINDS.values(), ids=KINDS)
def test_tokens_and_guided_tokens_are_counted(roomy: Engine, asked: dict[str, Any]) -> None:
    require_outcomes(roomy, [Ask(prompt(40, seed=1), asked, {"max_tokens": 20}, report="one")])


def test_gates_open_and_close_in_these_answers(roomy: Engine) -> None:
    """What the counts above rest on."""
    ask = Ask(prompt(40, seed=1), GATED, {"max_tokens": 20})
    opened = roomy.expected(ask, roomy.run([ask])[0].outputs[0]).opened
    assert 0 < opened.sum() < len(opened)


def test_requests_of_one_batch_are_told_apart(roomy: Engine) -> None:
    asks = [
        Ask(prompt(10 + 5 * i, seed=40 + i), asked, {"max_tokens": 6 + 3 * i}, report=f"request {i}")
        for i, asked in enumerate(KINDS.values())
    ]
    require_outcomes(roomy, asks)


def test_nothing_is_kept_of_requests_that_ask_for_no_report(roomy: Engine) -> None:
    asks = [Ask(prompt(20, seed=i), asked) for i, asked in enumerate([PLAIN, None, FUSION])]
    roomy.run_checked([*asks, Ask(prompt(20, seed=9), None, report="unguided")])
    assert roomy.model.channel.outcomes == {}
    assert roomy.outcome("unguided") == []


def test_a_stop_token_is_counted_and_nothing_after_it(roomy: Engine) -> None:
    ask = Ask(prompt(30, seed=5), GATED, {"max_tokens": 20}, report="whole")
    tokens = list(roomy.run([ask])[0].outputs[0].token_ids)
    (whole,) = roomy.outcome("whole")
    stop = tokens[7]
    assert stop not in tokens[:7]
    params = {"max_tokens": 20, "ignore_eos": False, "stop_token_ids": [stop]}
    stopped = Ask(ask.prompt, GATED, params, report="stopped")
    require_outcomes(roomy, [stopped])
    assert whole["tokens"] == 20


def test_each_choice_has_an_outcome(roomy: Engine) -> None:
    params = {"n": 3, "temperature": 1.0, "seed": 3, "max_tokens": 12}
    require_outcomes(roomy, [Ask(prompt(30, seed=6), GATED, params, report="three")])


@pytest.mark.parametrize("length", [1, 5])
def test_choices_that_run_one_after_another_each_have_an_outcome(single: Engine, length: int) -> None:
    """Each begins when the one before is over and forgotten."""
    params = {"n": 12, "temperature": 1.0, "seed": 3, "max_tokens": length}
    require_outcomes(single, [Ask(prompt(20, seed=6), PLAIN, params, report="twelve")])


def test_a_prompt_in_pieces_counts_once(tight: Engine) -> None:
    """Each unfinished piece has a row whose token is thrown away."""
    asks = [
        Ask(prompt(100 + 9 * i, seed=60 + i), asked, {"max_tokens": 8}, report=f"pieces {i}")
        for i, asked in enumerate([GATED, KINDS["base's logprobs"], FUSION])
    ]
    require_outcomes(tight, asks)


def test_preempted_requests_count_each_token_once(tight: Engine) -> None:
    tight.forget()
    kinds = [PLAIN, GATED, KINDS["linear"], KINDS["base's logprobs"], GATED]
    asks = [
        Ask(prompt(44 + 3 * i, seed=80 + i), kinds[i % 5], {"max_tokens": 64}, report=f"preempted {i}")
        for i in range(10)
    ]
    with tight.preemptions() as preempted:
        require_outcomes(tight, asks)
    assert len(preempted) >= 2
