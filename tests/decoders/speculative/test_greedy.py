"""Greedy answers are the plain engine's, whoever drafts, and drafts are what the draft model would say."""

import itertools
from importlib.util import find_spec
from typing import Any

import pytest

from tests.decoders.speculative.engines import Engine, Scripted, prompts

MODES: dict[str, dict[str, Any]] = {
    "roomy": {},
    # Prompts are cut into pieces, and eight long requests do not fit into the cache.
    "tight": {"max_num_batched_tokens": 64, "max_num_seqs": 8, "num_gpu_blocks_override": 20},
}
NEVER, ALWAYS = [False], [True]
NOW_AND_THEN = [True] * 4 + [False] * 7
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1, "prompt_lookup_max": 3}


def drafting(method: str, model: str, **more: Any) -> dict[str, Any]:
    if method == "adaptive_draft":
        more = {"max_draft_tokens": 6, "stop": 0.0, "adapt": False, **more}
    return {"method": method, "model": model, "draft_sample_method": "greedy", "governor": True, **more}


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


@pytest.fixture(scope="module")
def given() -> list[list[int]]:
    return prompts(8, 90)


@pytest.fixture(scope="module")
def plain(models: dict[str, str], given: list[list[int]]) -> list[list[int]]:
    return Engine(models["target"]).tokens(given)


@pytest.mark.parametrize("draft", ["target", "near", "stranger"])
@pytest.mark.parametrize("method", ["draft_model", "adaptive_draft"])
def test_draft_models(
    models: dict[str, str],
    given: list[list[int]],
    plain: list[list[int]],
    mode: dict[str, Any],
    method: str,
    draft: str,
) -> None:
    engine = Engine(models["target"], drafting(method, models[draft]), **mode)
    for pattern in (ALWAYS, NOW_AND_THEN, ALWAYS, NEVER):
        engine.steps.governor = Scripted(pattern)  # type: ignore[assignment]
        with engine.counted() as counts:
            assert engine.tokens(given) == plain
        drafted, accepted = counts["drafted"], counts["accepted"]
        if pattern is NEVER:
            assert drafted == 0
        elif draft == "target":
            # Only what the cache of the draft model holds can make it differ: it misses nothing, whatever
            # was cut, preempted, found in the prefix cache, or computed while it was left out.
            assert drafted == accepted > 100
        elif draft == "near":
            assert 0.2 * drafted < accepted < drafted
        else:
            assert accepted < 0.1 * drafted
    if mode:
        assert engine.preemptions() > 0


def test_what_is_found_in_the_prefix_cache_is_caught_up(models: dict[str, str]) -> None:
    engine = Engine(models["target"], drafting("adaptive_draft", models["target"]))
    shared = prompts(1, 160)[0]
    asked = [[*shared, i] for i in range(6)]  # one token is left to compute
    expected = Engine(models["target"], enable_prefix_caching=False).tokens(asked)
    engine.steps.governor = Scripted(NEVER)  # type: ignore[assignment]
    assert engine.tokens(asked[:1]) == expected[:1]
    engine.steps.governor = Scripted(ALWAYS)  # type: ignore[assignment]
    verified = _verified(engine)
    with engine.counted() as counts:
        outputs = engine.run(asked[1:])
    # vLLM would pad the first step of such requests with drafts of -1; see arguments.py.
    assert len(verified) > 100
    assert min(verified) >= 0
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected[1:]
    assert all((output.num_cached_tokens or 0) >= 160 for output in outputs)
    assert counts["drafted"] == counts["accepted"] > 60


def _verified(engine: Engine) -> list[int]:
    """Collects every drafted token that the scheduler has verified from now on."""
    tokens: list[int] = []
    runner = engine.worker.model_runner
    execute = runner.execute_model

    def collecting(scheduler_output: Any, *args: Any) -> Any:
        tokens.extend(itertools.chain(*scheduler_output.scheduled_spec_decode_tokens.values()))
        return execute(scheduler_output, *args)

    runner.execute_model = collecting
    return tokens


def test_more_is_caught_up_than_fits_into_one_step(models: dict[str, str]) -> None:
    settings = drafting("draft_model", models["target"])
    engine = Engine(models["target"], settings, max_num_batched_tokens=64, max_num_seqs=8)
    given = prompts(8, 150)
    expected = Engine(models["target"]).tokens(given)
    engine.steps.governor = Scripted([False] * 40 + [True] * 60)  # type: ignore[assignment]
    with engine.counted() as counts:
        assert engine.tokens(given) == expected
    assert counts["drafted"] == counts["accepted"] > 60


def test_ngram(
    models: dict[str, str], given: list[list[int]], plain: list[list[int]], mode: dict[str, Any]
) -> None:
    engine = Engine(models["target"], NGRAM, **mode)
    for pattern in (ALWAYS, NOW_AND_THEN, NEVER):
        engine.steps.governor = Scripted(pattern)  # type: ignore[assignment]
        with engine.counted() as counts:
            assert engine.tokens(given) == plain
        assert (counts["drafted"] > 0) == (pattern is not NEVER)
    # What repeats the answer that is to come is drafted right.
    echo = [ids + answer + ids for ids, answer in zip(given[:2], plain[:2], strict=True)]
    engine.steps.governor = Scripted(ALWAYS)  # type: ignore[assignment]
    assert engine.tokens(echo) == Engine(models["target"]).tokens(echo)


def test_eagle(
    models: dict[str, str], given: list[list[int]], plain: list[list[int]], mode: dict[str, Any]
) -> None:
    """The head is untrained: its drafts are refused, with the governor and without."""
    engine = Engine(models["target"], drafting("eagle", models["eagle"], num_speculative_tokens=3), **mode)
    for pattern in (ALWAYS, NOW_AND_THEN, NEVER):
        engine.steps.governor = Scripted(pattern)  # type: ignore[assignment]
        with engine.counted() as counts:
            assert engine.tokens(given) == plain
        assert (counts["drafted"] > 100) == (pattern is not NEVER)


@pytest.mark.skipif(find_spec("arctic_inference") is None, reason="arctic-inference is not installed")
def test_suffix(models: dict[str, str], given: list[list[int]], plain: list[list[int]]) -> None:
    engine = Engine(models["target"], {"method": "suffix"})
    for pattern in (ALWAYS, NOW_AND_THEN, ALWAYS):
        engine.steps.governor = Scripted(pattern)  # type: ignore[assignment]
        with engine.counted() as counts:
            assert engine.tokens(given) == plain
    assert counts["accepted"] > 100, "the answers are in the tree by now"


def test_the_governor_itself_changes_nothing(
    models: dict[str, str], given: list[list[int]], plain: list[list[int]]
) -> None:
    engine = Engine(models["target"], drafting("draft_model", models["stranger"]))
    for _ in range(3):
        assert engine.tokens(given) == plain
    summary = engine.worker.decant_speculation()
    assert summary["steps"]["drafting"] > 0
    assert summary["steps"]["plain"] > 0
    assert summary["steps"]["trial"] > 0


def test_logprobs_are_those_of_the_plain_engine(models: dict[str, str], given: list[list[int]]) -> None:
    plain = Engine(models["target"]).run(given, logprobs=3)
    engine = Engine(models["target"], drafting("adaptive_draft", models["near"], governor=False))
    for one, other in zip(engine.run(given, logprobs=3), plain, strict=True):
        for got, wanted in zip(one.outputs[0].logprobs, other.outputs[0].logprobs, strict=True):
            assert list(got) == list(wanted)
            for token, value in wanted.items():
                assert got[token].logprob == pytest.approx(value.logprob, abs=1e-4)


def test_a_broken_draft_cache_is_noticed(models: dict[str, str], given: list[list[int]]) -> None:
    """The comparison above can fail: without catching up the same drafts are mostly refused."""
    engine = Engine(models["target"], drafting("draft_model", models["target"]))
    engine.worker.model_runner.drafter.catch_up = lambda metadata: None
    engine.steps.governor = Scripted(NOW_AND_THEN)  # type: ignore[assignment]
    with engine.counted() as counts:
        engine.tokens(given)
    assert counts["accepted"] < 0.9 * counts["drafted"]
