"""Guided log-probabilities are the oracle's, whatever shares the batch, the cache or the memory."""

from pathlib import Path
from typing import Any

import pytest
from vllm import envs

from tests.decoders.logits.conftest import GUIDES
from tests.decoders.logits.engines import Ask, Engine, prompt
from tests.decoders.logits.models import TOKENS, VOCABULARY, WINDOW
from tests.decoders.logits.reference import Oracle


def genarm(**weights: float) -> dict[str, Any]:
    return {"method": "genarm", "weights": weights}


def fusion(*experts: str, small: str = "brief", **other: Any) -> dict[str, Any]:
    return {"method": "dynamic_fusion", "experts": list(experts), "small": small, **other}


METHODS: dict[str, dict[str, Any]] = {
    "genarm": genarm(polite=1.0),
    "genarm-negative": genarm(terse=-0.7),
    "genarm-several": genarm(polite=0.5, brief=1.5, terse=0.25),
    "genarm-all": genarm(polite=1.0, brief=0.5, terse=-0.3, wide=1.0),
    "genarm-zero": genarm(polite=0.8, brief=0.0),
    "genarm-all-zero": genarm(polite=0.0, brief=0.0),
    "genarm-gated": {**genarm(polite=2.0), "entropy_gate": 5.0},
    "linear": {"method": "linear", "weights": {"polite": 1.0, "terse": -1.0}},
    "linear-masked": {"method": "linear", "weights": {"polite": -0.5}, "alpha": 0.1},
    "linear-masked-1": {"method": "linear", "weights": {"polite": 2.5}, "alpha": 1.0},
    "linear-masked-gated": {
        "method": "linear",
        "weights": {"polite": -0.5, "wide": 0.2},
        "alpha": 0.05,
        "entropy_gate": 5.2,
    },
    "inverse_value": {"method": "inverse_value", "values": ["brief"]},
    "inverse_value-several": {"method": "inverse_value", "values": ["terse", "wide"], "weight": 0.4},
    "inverse_value-gated": {"method": "inverse_value", "values": ["wide"], "entropy_gate": 5.0},
    "fusion": fusion("polite"),
    "fusion-several": fusion("polite", "terse"),
    "fusion-grid": fusion("terse", "polite", grid=[0.25, 1.0, -0.5, 3.0]),
    "fusion-gated": {**fusion("terse", small="polite"), "entropy_gate": 5.0},
    "fusion-wide": fusion("wide", "terse", small="wide"),
}
NARROW: list[dict[str, Any]] = [
    genarm(narrow=0.7, wide=1.0),
    {"method": "linear", "weights": {"narrow": -1.0, "terse": 0.5}},
    {"method": "linear", "weights": {"narrow": 1.0}, "alpha": 0.1},
    {"method": "inverse_value", "values": ["narrow", "wide"], "weight": 0.5},
    fusion("narrow", "wide", small="terse"),
    fusion("terse", small="narrow"),
]
FULL = {"logprobs": -1}


def based(decoding: dict[str, Any]) -> dict[str, Any]:
    return {**decoding, "logprobs": "base"}


# ---- every method, every batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("reported", ["guided", "base"])
@pytest.mark.parametrize("decoding", METHODS.values(), ids=METHODS)
def test_every_token_of_the_vocabulary_has_the_oracles_logprob(
    roomy: Engine, decoding: dict[str, Any], reported: str
) -> None:
    roomy.run_checked([Ask(prompt(40, seed=1), {**decoding, "logprobs": reported}, FULL)])


def test_guidance_matters_in_these_models(roomy: Engine) -> None:
    """What the other tests rest on: no method is the base's own decoding by chance."""
    neutral = {"genarm-all-zero", "linear-masked-1"}
    asks = [Ask(prompt(40, seed=1), decoding) for decoding in METHODS.values()]
    plain = roomy.run([Ask(prompt(40, seed=1))])[0].outputs[0].token_ids
    for name, output in zip(METHODS, roomy.run(asks), strict=True):
        assert (list(output.outputs[0].token_ids) == list(plain)) == (name in neutral), name


@pytest.mark.parametrize("reported", ["guided", "base"])
def test_a_mask_acts_where_every_weight_is_zero(roomy: Engine, reported: str) -> None:
    asked = {"method": "linear", "weights": {"polite": 0.0}, "alpha": 0.2, "logprobs": reported}
    sampled = {"temperature": 1.0, "seed": 1, "max_tokens": 30}
    ask = Ask(prompt(40, seed=1), asked, sampled)
    (output,) = roomy.run_checked([ask])
    expected = roomy.expected(ask, output.outputs[0]).logprobs
    assert all(expected[i, token].isfinite() for i, token in enumerate(output.outputs[0].token_ids))


def test_a_guide_of_fewer_tokens_rules_out_the_others(padded: Engine) -> None:
    for reported in ("guided", "base"):
        padded.run_checked(
            [
                Ask(prompt(30 + i, seed=i), {**kind, "logprobs": reported}, FULL)
                for i, kind in enumerate(NARROW)
            ]
        )


def test_a_token_that_a_guide_lacks_may_stand_in_the_batch(padded: Engine) -> None:
    """The base's vocabulary is what a prompt may hold and an unguided neighbour may answer."""
    ids = [*prompt(20, seed=1), TOKENS, VOCABULARY - 1]
    asks = [Ask(ids, None, {"max_tokens": 8}), Ask(prompt(25, seed=2), NARROW[0]), Ask(ids, genarm(wide=1.0))]
    padded.run_checked(asks)


def test_rows_of_all_kinds_share_batches(roomy: Engine) -> None:
    """More requests than rows, of other lengths and methods, so that rows come, go and move."""
    kinds = [None, *METHODS.values(), None, *map(based, METHODS.values()), None]
    asks = [
        Ask(prompt(2 + 7 * i % 90, seed=100 + i), kind, {"max_tokens": 3 + 5 * i % 17})
        for i, kind in enumerate(kinds)
    ]
    roomy.run_checked(asks)
    # Again from the cache, and in another order: other rows, other neighbours.
    roomy.run_checked([asks[(i * 7) % len(asks)] for i in range(len(asks))])


def test_weights_are_each_rows_own(roomy: Engine) -> None:
    weights = [-2.0, -0.5, 0.0, 0.1, 1.0, 2.5]
    roomy.run_checked([Ask(prompt(20, seed=2), genarm(polite=w, terse=1 - w)) for w in weights])


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 96])
def test_prompts_around_block_boundaries(roomy: Engine, length: int) -> None:
    asks = [Ask(prompt(length, seed=3), kind) for kind in (METHODS["genarm-several"], None)]
    roomy.run_checked(asks)
    roomy.run_checked(asks)


def test_prompt_logprobs_are_the_bases(roomy: Engine, tight: Engine) -> None:
    for engine in (roomy, tight):
        kinds = [genarm(polite=1.5), None, based(genarm(terse=1.0)), fusion("polite", "terse")]
        asks = [
            Ask(prompt(50 + i, seed=i), kind, {"prompt_logprobs": 5, "max_tokens": 6})
            for i, kind in enumerate(kinds)
        ]
        for ask, output in zip(asks, engine.run_checked(asks), strict=True):
            expected = engine.oracle.logits(engine.base, ask.prompt).log_softmax(-1)
            assert len(output.prompt_logprobs) == len(ask.prompt)
            for i, position in enumerate(output.prompt_logprobs[1:]):
                assert len(position) >= 5
                for token, entry in position.items():
                    assert entry.logprob == pytest.approx(float(expected[i, token]), abs=1e-4)


# ---- which models run ------------------------------------------------------------------------------------


def test_no_guide_runs_for_unguided_requests(roomy: Engine) -> None:
    with roomy.forwards() as counts:
        roomy.run([Ask(prompt(20, seed=4), None, {"max_tokens": 9}), Ask(prompt(30, seed=4))])
        roomy.run([Ask(prompt(20, seed=5), METHODS["genarm-all-zero"])])
    assert counts == {"": 32, **dict.fromkeys(GUIDES, 0)}


def test_guides_run_only_while_a_row_that_uses_them_is_there(roomy: Engine) -> None:
    asks = [
        Ask(prompt(20, seed=6), None, {"max_tokens": 16}),
        Ask(prompt(20, seed=7), genarm(polite=1.0, brief=0.0), {"max_tokens": 4}),
        Ask(prompt(20, seed=8), based(genarm(terse=1.0)), {"max_tokens": 7}),
        Ask(prompt(20, seed=9), fusion("terse", small="wide"), {"max_tokens": 2}),
    ]
    with roomy.forwards() as counts:
        roomy.run_checked(asks)
    assert counts == {"": 16, "polite": 4, "brief": 0, "terse": 7, "wide": 2}


# ---- prefix cache ----------------------------------------------------------------------------------------

BOTH = genarm(polite=1.0, brief=1.0)
POLITE = genarm(polite=1.0)
ORDERS = {
    "guided after unguided": [None, POLITE],
    "unguided after guided": [POLITE, None],
    "fewer guides after more": [BOTH, POLITE],
    "more guides after fewer": [POLITE, BOTH],
    "another guide": [POLITE, genarm(brief=1.0)],
    "two after each alone": [POLITE, genarm(brief=1.0), BOTH],
    "fusion after guided": [POLITE, fusion("polite", small="terse")],
    "guided after weight zero": [genarm(polite=0.0), POLITE],
    "base's logprobs after none": [None, based(POLITE)],
    "closed gate, then open": [{**POLITE, "entropy_gate": 50.0}, POLITE],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_no_request_reads_blocks_that_lack_its_guides(
    roomy: Engine, order: list[dict[str, Any] | None]
) -> None:
    roomy.forget()
    ids = prompt(100, seed=11)
    for kind in order:
        roomy.run_checked([Ask(ids, kind)])
    # Now every kind has blocks of its own, or shares those that serve it.
    for kind in order:
        (output,) = roomy.run_checked([Ask(ids, kind)])
        assert output.num_cached_tokens == 96


def test_other_weights_of_the_same_guides_share_blocks(roomy: Engine) -> None:
    roomy.forget()
    ids = prompt(100, seed=12)
    roomy.run_checked([Ask(ids, genarm(polite=1.0, brief=0.0))])
    for kind in (genarm(polite=-2.0), {"method": "inverse_value", "values": ["polite"]}, based(POLITE)):
        (output,) = roomy.run_checked([Ask(ids, kind)])
        assert output.num_cached_tokens == 96


def test_a_request_without_guides_shares_the_bases_blocks(roomy: Engine) -> None:
    roomy.forget()
    ids = prompt(100, seed=13)
    roomy.run_checked([Ask(ids)])
    (output,) = roomy.run_checked([Ask(ids, METHODS["genarm-all-zero"])])
    assert output.num_cached_tokens == 96


def test_the_answers_blocks_are_cached_with_their_guides(roomy: Engine) -> None:
    roomy.forget()
    long = {"max_tokens": 60}
    (first,) = roomy.run_checked([Ask(prompt(40, seed=14), POLITE, long)])
    turn = [*first.prompt_token_ids, *first.outputs[0].token_ids, *prompt(10, seed=15)]
    (second,) = roomy.run_checked([Ask(turn, genarm(polite=0.5))])
    assert second.num_cached_tokens == 96
    (third,) = roomy.run_checked([Ask(turn, BOTH)])
    assert third.num_cached_tokens == 0


def test_users_salts_still_keep_users_apart(roomy: Engine) -> None:
    roomy.forget()
    ids = prompt(100, seed=16)
    found = [
        roomy.run_checked([Ask(ids, kind, salt=salt)])[0].num_cached_tokens
        for salt in ("ann", "bob", "ann")
        for kind in (None, POLITE)
    ]
    assert found == [0, 0, 0, 0, 96, 96]


def test_one_prompt_in_one_batch_guided_and_not(roomy: Engine) -> None:
    roomy.forget()
    ids = prompt(70, seed=17)
    kinds = [None, POLITE, BOTH, based(BOTH), fusion("polite"), None, POLITE]
    roomy.run_checked([Ask(ids, kind) for kind in kinds])
    roomy.run_checked([Ask(ids, kind) for kind in reversed(kinds)])


# ---- small budgets ---------------------------------------------------------------------------------------

TIGHT = [
    None,
    genarm(polite=1.0),
    {**genarm(polite=0.5, brief=1.5), "entropy_gate": 5.0},
    based(genarm(terse=1.0)),
    fusion("polite", "terse"),
    {"method": "linear", "weights": {"terse": -0.5}, "alpha": 0.1},
    {"method": "inverse_value", "values": ["polite"], "weight": 0.5},
]


def test_prompts_in_pieces(tight: Engine) -> None:
    asks = [Ask(prompt(30 + 13 * i, seed=20 + i), kind, {"max_tokens": 5}) for i, kind in enumerate(TIGHT)]
    tight.forget()
    with tight.forwards() as counts:
        tight.run_checked(asks)
    assert counts[""] >= sum(len(ask.prompt) for ask in asks) / 24
    tight.run_checked(asks[::-1])


def test_pieces_of_a_prompt_beside_rows_that_decode(tight: Engine) -> None:
    """A long guided prompt comes in while others answer: its unfinished rows must not disturb theirs."""
    short = [Ask(prompt(5, seed=30 + i), kind, {"max_tokens": 40}) for i, kind in enumerate(TIGHT[:3])]
    long = [Ask(prompt(150, seed=40 + i), kind, {"max_tokens": 4}) for i, kind in enumerate(TIGHT[1:4])]
    tight.run_checked([*short, *long])


@pytest.mark.parametrize("salted", [False, True])
def test_preempted_requests_resume_with_their_guides(tight: Engine, salted: bool) -> None:
    """The cache holds about half of what runs; who is put off is computed again, partly from the cache."""
    tight.forget()
    asks = [
        Ask(
            prompt(40 + 4 * (i % 5), seed=50 + i % 9),
            TIGHT[i % len(TIGHT)],
            {"max_tokens": 60 + 3 * (i % 4)},
            salt=f"user {i % 2}" if salted else None,
        )
        for i in range(18)
    ]
    with tight.preemptions() as preempted:
        tight.run_checked(asks)
    assert len(preempted) >= 4


# ---- compiled models -------------------------------------------------------------------------------------


def test_compiled_models_are_the_oracles_when_built_and_when_read_from_the_cache(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second engine has its guides in the other order: what was compiled for one is not the other's."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    envs.disable_envs_cache()  # an engine that was started before has read it
    asks = [
        Ask(prompt(2 + 17 * i, seed=i), kind)
        for i, kind in enumerate([None, genarm(polite=1.0), genarm(wide=-0.5, polite=0.5), genarm(wide=1.0)])
    ]
    for guides in (("polite", "wide"), ("wide", "polite")):
        Engine(oracle, "base", guides, enforce_eager=False).run_checked(asks)
    assert list(tmp_path.glob("torch_compile_cache/*")), "nothing was compiled"


# ---- sliding windows -------------------------------------------------------------------------------------


def test_a_sliding_base_does_not_narrow_its_guide(sliding_base: Engine) -> None:
    kinds = [
        genarm(polite=1.0),
        None,
        based(genarm(polite=-1.0)),
        {**genarm(polite=2.0), "entropy_gate": 5.0},
    ]
    asks = [
        Ask(prompt(length, seed=60 + length), kind, {"max_tokens": 24})
        for length in (WINDOW - 8, 4 * WINDOW + 7)
        for kind in kinds
    ]
    sliding_base.run_checked(asks)
    sliding_base.run_checked(asks)


def test_a_sliding_guide_keeps_its_window_beside_a_full_base(sliding_guide: Engine) -> None:
    kinds = [
        genarm(sliding_guide=1.0),
        None,
        genarm(sliding_guide=0.5, polite=0.5),
        genarm(polite=1.0),
        fusion("polite", small="sliding_guide"),
    ]
    asks = [
        Ask(prompt(length, seed=70 + length), kind, {"max_tokens": 24})
        for length in (WINDOW - 8, 4 * WINDOW + 7)
        for kind in kinds
    ]
    sliding_guide.run_checked(asks)
    sliding_guide.run_checked(asks)


@pytest.mark.parametrize("order", [[None, POLITE], [POLITE, None]])
def test_a_sliding_bases_cached_blocks_have_their_guides(
    sliding_base: Engine, order: list[dict[str, Any] | None]
) -> None:
    sliding_base.forget()
    ids = prompt(140, seed=80)
    for kind in [*order, *order]:
        outputs = sliding_base.run_checked([Ask(ids, kind)])
    assert outputs[0].num_cached_tokens > 0
