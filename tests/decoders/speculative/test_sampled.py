"""Sampled answers have the model's own distribution: 20,000 of each against the exact probabilities."""

from typing import Any

import pytest
import torch
from vllm import SamplingParams, TokensPrompt
from vllm.sampling_params import StructuredOutputsParams

from server import embedded
from tests.decoders.speculative.distribution import exact, p_value
from tests.decoders.speculative.engines import Engine, Scripted, prompts
from tests.decoders.speculative.models import FEW

SAMPLES, LENGTH = 20_000, 4
# One token more than a block: every request but the first finds all but one token in the prefix cache.
PROMPT = prompts(1, 33, FEW)[0]
PLACES: list[dict[str, Any]] = [
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_p": 0.8},
]


def drafting(method: str, sampled: str, **more: Any) -> dict[str, Any]:
    return {"method": method, "draft_sample_method": sampled, "governor": True, **more}


METHODS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "ngram": {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 2, "num_speculative_tokens": 3},
    "draft_model": drafting("draft_model", "greedy", num_speculative_tokens=3),
    "draft_model, sampled": drafting("draft_model", "probabilistic", num_speculative_tokens=3),
    "adaptive_draft": drafting("adaptive_draft", "probabilistic", max_draft_tokens=3, adapt=False, stop=0.42),
    "adaptive_draft, greedy": drafting(
        "adaptive_draft", "greedy", max_draft_tokens=3, adapt=False, stop=0.42
    ),
}


def made(models: dict[str, str], settings: dict[str, Any] | None) -> Engine:
    if settings is not None and settings["method"] != "ngram":
        settings = {**settings, "model": models["few_near"]}
    engine = Engine(models["few"], settings, max_num_seqs=128, max_model_len=64)
    torch.manual_seed(7)  # vLLM draws from the process's generator
    if settings is not None:
        # Both ways in turn, with no clock in it.
        engine.steps.governor = Scripted([True] * 5 + [False] * 2)  # type: ignore[assignment]
    return engine


def sample(engine: Engine, **place: float) -> list[list[int]]:
    output = engine.run([PROMPT] * (SAMPLES // 100), n=100, max_tokens=LENGTH, **place)
    return [list(choice.token_ids) for one in output for choice in one.outputs]


@pytest.mark.parametrize("method", METHODS)
def test_the_distribution_is_the_models(models: dict[str, str], method: str) -> None:
    engine = made(models, METHODS[method])
    drafted = accepted = 0
    for place in PLACES:
        expected = exact(models["few"], PROMPT, LENGTH, **place)
        assert expected.sum() == pytest.approx(1.0)
        if method == "plain":
            answers = sample(engine, **place)
        else:
            with engine.counted() as counts:
                answers = sample(engine, **place)
            drafted, accepted = drafted + counts["drafted"], accepted + counts["accepted"]
        assert len(answers) == SAMPLES
        assert p_value(answers, expected) > 0.01
    # It says nothing of drafts that were all refused, or all accepted; what ngram drafts is seldom likely.
    if method != "plain":
        assert SAMPLES / (100 if method == "ngram" else 5) < accepted < 0.95 * drafted


def test_drafts_said_to_be_drawn_from_another_distribution_are_noticed(models: dict[str, str]) -> None:
    """The test above can fail."""
    engine = made(models, METHODS["adaptive_draft"])
    drafter = engine.worker.model_runner.drafter
    choose = drafter._choose

    def flat(*args: Any) -> Any:
        tokens, probabilities = choose(*args)
        return tokens, torch.full_like(probabilities, 1 / FEW)

    drafter._choose = flat
    assert p_value(sample(engine, **PLACES[0]), exact(models["few"], PROMPT, LENGTH, **PLACES[0])) < 1e-6


def test_drafts_under_a_grammar_are_taken_as_certain() -> None:
    """A grammar cuts drafts by the tokens that were drawn, so their distribution must not be used."""
    settings = drafting("adaptive_draft", "probabilistic", max_draft_tokens=3, stop=0.0, adapt=False)
    settings |= {"model": str(embedded.path("small")), "governor": False}
    engine = Engine(str(embedded.path("base")), settings, skip_tokenizer_init=False)
    pin, free, certain = engine.steps._pin_constrained, [], []

    def pinned(drafts: list[list[int]]) -> None:
        pin(drafts)
        runner = engine.worker.model_runner
        for row, name in enumerate(runner.input_batch.req_ids):
            constrained = runner.requests[name].sampling_params.structured_outputs is not None
            for position, token in enumerate(drafts[row]):
                (certain if constrained else free).append(runner._draft_probs[row, position, token].item())

    engine.steps._pin_constrained = pinned  # type: ignore[method-assign]
    grammar = StructuredOutputsParams(regex="[a-m ]+")
    common = {"temperature": 1.5, "max_tokens": 8, "detokenize": False}
    engine.llm.generate(
        [TokensPrompt(prompt_token_ids=prompts(1, 20)[0])] * 8,
        [SamplingParams(**common, structured_outputs=grammar if i % 2 else None) for i in range(8)],
        use_tqdm=False,
    )
    assert len(certain) > 10
    assert set(certain) == {1.0}
    assert len(free) > 10
    assert max(free) < 1.0


def test_a_seed_gives_the_same_answer_again(models: dict[str, str]) -> None:
    """Where drafts do not depend on chance, nor on what else runs."""
    settings = {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 2, "governor": False}
    engine = Engine(models["few"], settings, max_model_len=64)
    first = engine.tokens([PROMPT], temperature=1.0, seed=3)
    assert engine.tokens([PROMPT], temperature=1.0, seed=3) == first
    assert engine.tokens([PROMPT], temperature=1.0, seed=4) != first
