"""Models that the composite cannot hold are refused by name, not by an assertion of vLLM's."""

from typing import Any

import pytest
from transformers import FalconH1Config, FalconH1ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.decoders.logits.engines import Engine
from tests.decoders.logits.models import make, shape
from tests.decoders.logits.reference import Oracle

MAMBA = shape(
    64,
    2,
    2,
    1,
    32,
    mamba_d_ssm=64,
    mamba_n_heads=2,
    mamba_d_head=32,
    mamba_d_state=16,
    mamba_n_groups=1,
    mamba_chunk_size=32,
)
EXPERTS = shape(
    64, 2, 2, 1, 32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
)
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "hybrid": ((FalconH1Config, FalconH1ForCausalLM), MAMBA),
    "experts": ((Qwen3MoeConfig, Qwen3MoeForCausalLM), EXPERTS),
}


@pytest.fixture(scope="module")
def odd(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.mktemp("odd")
    made = {name: make(folder / name, 50 + i, *MODELS[name]) for i, name in enumerate(MODELS)}
    return Oracle({**oracle.paths, **made})


@pytest.mark.parametrize(
    ("base", "guide", "says"),
    [
        ("hybrid", "polite", "the base: models with recurrent layers"),
        ("base", "hybrid", r"guide hybrid \(.*hybrid\): models with recurrent layers"),
        ("base", "experts", r"guide experts \(.*experts\): a mixture of experts"),
    ],
)
def test_a_model_that_the_composite_cannot_hold_is_named(
    odd: Oracle, base: str, guide: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Engine(odd, base, (guide,))
