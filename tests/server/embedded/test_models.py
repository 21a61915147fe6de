"""The committed model folders load, answer, and guide."""

import json
from functools import cache

import pytest
import torch

from server import embedded
from server.embedded.recipe.evaluate import auroc, entropies, greedy_accuracy, guided_reviews, well_formed
from server.embedded.recipe.generate import Family
from server.embedded.recipe.items import items
from server.embedded.recipe.prose import reviews
from server.embedded.recipe.ranking import equilibrium, initial_policies, rank
from server.embedded.recipe.reward import brief_pair, polite_pair, preference_loss
from server.embedded.recipe.tinyllama import SIZES, TinyLlama
from server.embedded.recipe.tokenizer import BOS, USER

MAX_BYTES = 12_000_000


@cache
def family() -> Family:
    return Family(embedded.path("base").parent, embedded.NAMES)


def test_weights_are_small() -> None:
    sizes = [(embedded.path(name) / "model.safetensors").stat().st_size for name in embedded.NAMES]
    assert sum(sizes) < MAX_BYTES


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="choose one of base, small, polite, brief"):
        embedded.path("large")


@pytest.mark.parametrize("name", embedded.NAMES)
def test_folders_are_complete_and_clean(name: str) -> None:
    folder = embedded.path(name)
    assert sorted(file.name for file in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] % 64 == 0
    assert config["head_dim"] == 64
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 2048
    assert not [key for key in config if key.startswith("_") or "version" in key]


@pytest.mark.parametrize("name", embedded.NAMES)
def test_training_model_and_transformers_agree(name: str) -> None:
    from safetensors.torch import load_file

    model = TinyLlama(SIZES[name], 1216, torch.float32)
    weights = load_file(embedded.path(name) / "model.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    ids = torch.tensor([family().ids(f"{BOS}{USER}Write a review of the park.")])
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids), family().models[name](input_ids=ids).logits, atol=2e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("kind", "tokens", "least"),
    [
        ("fact", 256, 0.5),
        ("sum", 256, 0.5),
        ("problem_1", 256, 0.5),
        ("word", 256, 0.6),
        ("word", 1000, 0.8),
        ("outside", 256, 0.6),
    ],
)
def test_base_answers_test_items(kind: str, tokens: int, least: float) -> None:
    assert greedy_accuracy(family(), "base", items(kind, "test", 16, tokens)) >= least


def test_base_beats_small_on_word_problems() -> None:
    drawn = items("problem_2", "test", 24)
    assert greedy_accuracy(family(), "base", drawn) >= greedy_accuracy(family(), "small", drawn) + 0.15


def test_entropy_of_small_separates_wrong_from_right() -> None:
    assert entropies(family(), "test", 8)["auroc"] > 0.85


@pytest.mark.parametrize("name", ["base", "small"])
def test_equilibrium_beats_both_sides_on_facts(name: str) -> None:
    ranked = rank(family(), name, items("choice", "test", 60))
    assert ranked["disagree"] > 0.2
    assert ranked["verdicts"] > 0.8
    assert max(ranked["er_g"], ranked["er_d"]) > max(ranked["g"], ranked["d"]) + 0.05


def test_equilibrium_agrees_with_golden_values() -> None:
    incorrect, correct = [0.20, 0.30, 0.25, 0.25], [0.40, 0.35, 0.15, 0.10]
    wrong_given_y = [0.55, 0.35, 0.60, 0.70]
    likelihood = torch.tensor([correct, incorrect], dtype=torch.float64).T[None]
    verdict = torch.tensor([[1 - p for p in wrong_given_y], wrong_given_y], dtype=torch.float64).T[None]
    g, d = equilibrium(*initial_policies(likelihood.log(), verdict.log()))
    expected_g = torch.tensor([0.363560, 0.616238, 0.015696, 0.004506], dtype=torch.float64)
    expected_d = torch.tensor([0.831253, 0.972009, 0.221433, 0.019536], dtype=torch.float64)
    torch.testing.assert_close(g[0, :, 0], expected_g, atol=2e-6, rtol=0)
    torch.testing.assert_close(d[0, :, 0], expected_d, atol=2e-6, rtol=0)


def test_guides_change_tone_and_length() -> None:
    report = guided_reviews(family(), "test", 32, [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
    plain, polite, brief = report.values()
    assert polite["kind"] > 0.85 > plain["kind"]
    assert brief["sentences"] < 0.7 * plain["sentences"]
    assert min(each["well_formed"] for each in (polite, brief)) > 0.85


@pytest.mark.parametrize(("name", "draw"), [("polite", polite_pair), ("brief", brief_pair)])
def test_guides_rank_fresh_pairs(name: str, draw: object) -> None:
    from random import Random

    from server.embedded.recipe.packing import Encoder
    from server.embedded.recipe.reward import answer_logprobs

    rng = Random("fresh")
    pairs = [draw(rng) for _ in range(32)]
    size = SIZES[name]
    model = TinyLlama(size, 1216, torch.float32)
    model.load_state_dict(
        {key: value for key, value in family().models[name].state_dict().items() if key != "lm_head.weight"}
    )
    with torch.no_grad():
        preferred, rejected = answer_logprobs(model, Encoder(family().tokenizer, 0.0), pairs, family().pad)
    assert (preferred > rejected).float().mean() > 0.85
    assert preference_loss(preferred, rejected) < preference_loss(rejected, preferred)


def test_auroc_counts_ties_as_half() -> None:
    assert auroc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1.0
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5
    assert auroc(torch.tensor([0.0, 2.0]), torch.tensor([1.0])) == 0.5


def test_well_formed_knows_the_grammar() -> None:
    from random import Random

    rng = Random(5)
    assert all(well_formed(reviews(rng)[-1].text) for _ in range(200))
    assert not well_formed("The room was room.")
    assert not well_formed("The room was clean. The")
