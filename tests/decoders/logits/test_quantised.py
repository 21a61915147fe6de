"""Quantised bases and guides: which layers are quantised is what their own checkpoints say."""

import pytest
import torch
from torch import Tensor
from vllm import LLM

from tests.decoders.logits.engines import (
    CLOSE,
    Ask,
    Engine,
    engine_settings,
    prompt,
    reported,
    started,
)
from tests.decoders.logits.models import VOCABULARY, quantised
from tests.decoders.logits.reference import Oracle

IGNORED = ["model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"]
ASKS = [Ask(prompt(length, seed=length), None, {"logprobs": -1, "max_tokens": 1}) for length in (20, 90)]


@pytest.fixture(scope="module")
def mixed(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """With `base 8` and `polite 8`, of which some layers are quantised and some are not."""
    folder = tmp_path_factory.mktemp("quantised")
    names = ("base", "polite")
    made = {f"{name} 8": quantised(oracle.paths[name], folder / name, IGNORED) for name in names}
    return Oracle({**oracle.paths, **made})


def logprobs(llm: LLM, asks: list[Ask]) -> list[Tensor]:
    """Log-probabilities `[vocab]` of each request's first token."""
    found = []
    for ask in asks:
        made, params = ask.made()
        (output,) = llm.generate([made], [params], use_tqdm=False)
        found.append(reported(output.outputs[0], VOCABULARY)[0])
    return found


def alone(path: str) -> list[Tensor]:
    return logprobs(started(engine_settings(path, dtype="bfloat16")), ASKS)


@pytest.mark.parametrize(
    ("base", "guide"), [("base 8", "polite"), ("base", "polite 8"), ("base 8", "polite 8")]
)
def test_a_quantised_models_logprobs_are_those_it_has_alone(mixed: Oracle, base: str, guide: str) -> None:
    engine = Engine(mixed, base, (guide,), dtype="bfloat16")
    bases, guides = alone(mixed.paths[base]), alone(mixed.paths[guide])
    for found, expected in zip(logprobs(engine.llm, ASKS), bases, strict=True):
        assert (found - expected).abs().max() < CLOSE
    guided = [Ask(ask.prompt, {"method": "genarm", "weights": {guide: 1.0}}, ask.params) for ask in ASKS]
    for found, one, other in zip(logprobs(engine.llm, guided), bases, guides, strict=True):
        assert (found - (one + other).log_softmax(-1)).abs().max() < CLOSE


def test_quantisation_matters_in_these_models(mixed: Oracle) -> None:
    """What the test above rests on: a layer taken for the other kind is seen."""
    for name in ("base", "polite"):
        found = [torch.stack(alone(mixed.paths[one])) for one in (name, f"{name} 8")]
        assert (found[0] - found[1]).abs().max() > 100 * CLOSE
