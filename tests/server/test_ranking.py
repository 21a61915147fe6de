"""POST /v1/rank is an independent Hugging Face computation in float64, and says clearly what it cannot do."""

import asyncio
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from server import embedded
from server.config import ServeSettings
from server.embedded.recipe.items import Item, items
from server.engine import DecodingEngine
from tests.decoders.sequence.candidates.reference import Expected, Reference, ranked
from tests.server.http import Service

RANK = "/v1/rank"
POLICIES = ("sc", "d", "er_g", "er_d")
LABELS = ("correct", "incorrect", "yes", "no")
QUESTION = "What is the capital of Tovand?"
ASK: dict[str, Any] = {"prompt": QUESTION, "candidates": ["Vamburg", "Pesdal"]}


@dataclass
class Case:
    item: Item
    question: str
    chat: bool
    expected: Expected

    def body(self, **fields: Any) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt": self.question}
        if self.chat:
            prompt = {"messages": [{"role": "user", "content": self.question}]}
        return {**prompt, "candidates": list(self.item.options), **fields}

    def check(self, answer: dict[str, Any]) -> None:
        assert [one["rank"] for one in answer["results"]] == list(range(1, len(self.item.options) + 1))
        for one in answer["results"]:
            y = one["index"]
            assert one["text"] == self.item.options[y]
            for label, wanted in zip(LABELS, self.expected.logprobs[y], strict=True):
                assert one["logprobs"][label] == pytest.approx(wanted, abs=1e-4)
            for rule, wanted in self.expected.scores[y].items():
                close = 1e-3 if rule in POLICIES else 1e-4
                assert one["scores"][rule] == pytest.approx(wanted, abs=close)
        # The order is the reference's wherever two policies lie further apart than the tolerance.
        wanted = [self.expected.scores[one["index"]]["er_d"] for one in answer["results"]]
        assert all(a > b - 2e-3 for a, b in pairwise(wanted))
        best = max(range(len(wanted)), key=lambda y: self.expected.scores[y]["er_d"])
        if all(wanted[0] - other > 2e-3 for other in wanted[1:]):
            assert answer["results"][0]["index"] == best


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(str(embedded.path("base")))


@pytest.fixture(scope="module")
def cases(reference: Reference) -> list[Case]:
    drawn = [*items("choice", "test", 50), *items("sum_choice", "test", 50)]
    # Another question with its answer first, so that a question fills more than a block of the cache.
    asked = [
        f"{before.prompt}\nAnswer: {before.answer}\n{item.prompt}"
        for before, item in zip([*drawn[1:], drawn[0]], drawn, strict=True)
    ]
    tables = [reference.table(asked[i], list(item.options), chat=bool(i % 2)) for i, item in enumerate(drawn)]
    expected: dict[int, Expected] = {}
    for count in {len(table) for table in tables}:
        alike = [i for i, table in enumerate(tables) if len(table) == count]
        expected |= dict(zip(alike, ranked([tables[i] for i in alike]), strict=True))
    return [Case(item, asked[i], bool(i % 2), expected[i]) for i, item in enumerate(drawn)]


@pytest.fixture
def service(engine: DecodingEngine) -> Service:
    return Service(engine)


async def test_a_hundred_multiple_choices_are_the_references(
    service: Service, engine: DecodingEngine, cases: list[Case]
) -> None:
    """Cold and with a warm cache, alone and 16 at a time."""
    for at_once in (1, 16):
        gate = asyncio.Semaphore(at_once)

        async def ask(case: Case, gate: asyncio.Semaphore = gate) -> dict[str, Any]:
            async with gate:
                return await service.post_ok(RANK, case.body())

        for warm in (False, True):
            if not warm:
                await engine.reset_prefix_cache()
            answers = await asyncio.gather(*map(ask, cases))
            for case, answer in zip(cases, answers, strict=True):
                case.check(answer)
            if warm:
                assert all(answer["usage"]["cached_tokens"] > 0 for answer in answers)


async def test_the_answers_shape(service: Service) -> None:
    answer = await service.post_ok(RANK, {**ASK, "model": "demo", "decoding": {"report": True}})
    assert {k: v for k, v in answer.items() if k not in ("results", "usage", "decoding")} == {
        "object": "ranking",
        "model": "demo",
        "method": "equilibrium",
        "ranking": "er_d",
        "iterations": 5000,
    }
    for one in answer["results"]:
        assert set(one) == {"rank", "index", "text", "scores", "logprobs", "tokens"}
        assert set(one["scores"]) == {"g", "mi", "sc", "d", "er_g", "er_d"}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer["decoding"]["sequence"]["scored_tokens"] == usage["computed_tokens"]


@pytest.mark.parametrize("rule", ["g", "mi", "sc", "d", "er_g", "er_d"])
async def test_each_rule_orders_by_its_own_score(service: Service, cases: list[Case], rule: str) -> None:
    for case in cases[:6]:
        answer = await service.post_ok(RANK, case.body(ranking=rule))
        scores = [one["scores"][rule] for one in answer["results"]]
        assert scores == sorted(scores, reverse=True)


async def test_the_mean_by_token_and_the_answers_end(service: Service, reference: Reference) -> None:
    candidates = ["Vamburg", "Vamburg is", "Pesdal"]
    plain, by_token, ended = [
        {one["text"]: one for one in (await service.post_ok(RANK, {**ASK, **more}))["results"]}
        for more in (
            {"candidates": candidates},
            {"candidates": candidates, "by_token": True},
            {"candidates": candidates, "end": True},
        )
    ]
    prompt = reference.tokenizer.encode(f"{QUESTION}\nAnswer:")
    for text in candidates:
        answer = reference.tokenizer.encode(f" {text}", add_special_tokens=False)
        rows = reference.rows(prompt, [*answer, reference.tokenizer.eos_token_id])
        assert plain[text]["logprobs"]["correct"] == pytest.approx(sum(rows[:-1]), abs=1e-4)
        assert by_token[text]["logprobs"]["correct"] == pytest.approx(sum(rows[:-1]) / len(answer), abs=1e-4)
        assert ended[text]["logprobs"]["correct"] == pytest.approx(sum(rows), abs=1e-4)
    # A candidate that another begins with is never the less likely one, until its end counts.
    assert plain["Vamburg"]["scores"]["g"] > plain["Vamburg is"]["scores"]["g"]


async def test_templates_of_the_callers_own(service: Service, reference: Reference) -> None:
    templates = {
        "generator": "Q: {question}\nA:",
        "generator_incorrect": "Q: {question}\nWrong:",
        "answer": " {answer}!",
        "discriminator": "{question} {answer}?",
        "correct": " right",
        "incorrect": " wrong answer",
    }
    answer = await service.post_ok(RANK, {**ASK, "templates": templates})
    for one in answer["results"]:
        asked = {
            "correct": (f"Q: {QUESTION}\nA:", f" {one['text']}!"),
            "incorrect": (f"Q: {QUESTION}\nWrong:", f" {one['text']}!"),
            "yes": (f"{QUESTION} {one['text']}?", " right"),
            "no": (f"{QUESTION} {one['text']}?", " wrong answer"),
        }
        for label, (prompt, text) in asked.items():
            wanted = reference.after(prompt, text, chat=False)
            assert one["logprobs"][label] == pytest.approx(wanted, abs=1e-4)


async def test_a_prompt_that_merges_with_its_answers(service: Service, reference: Reference) -> None:
    """The border lies before the merged token, so that the scored text is tokenised as it stands."""
    tokenizer = reference.tokenizer
    templates = {"generator": "{question} The capi", "answer": "{answer}"}
    candidates = ["tal of Tovand is Vamburg", "tal"]
    head, *wholes = [tokenizer.encode(f"{QUESTION} The capi{one}") for one in ("", *candidates)]
    assert all(whole[: len(head)] != head for whole in wholes), "the tokenizer merges nothing here"
    agree = [next(i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b) for whole in wholes]
    answer = await service.post_ok(RANK, {**ASK, "candidates": candidates, "templates": templates})
    for one in answer["results"]:
        whole = wholes[one["index"]]
        wanted = sum(reference.rows(whole[: min(agree)], whole[min(agree) :]))
        assert one["logprobs"]["correct"] == pytest.approx(wanted, abs=1e-4)


async def test_identical_candidates_share_scores_and_long_ones_do_not_underflow(service: Service) -> None:
    long = " ".join(["Vamburg hotel review"] * 120)
    candidates = ["Vamburg", long, "Vamburg"]
    answer = await service.post_ok(RANK, {**ASK, "candidates": candidates, "ranking": "er_g"})
    first, second, third = answer["results"]
    assert [one["index"] for one in answer["results"]] == [0, 2, 1]
    assert first["scores"] == second["scores"]
    assert third["scores"]["g"] < -750
    assert math.exp(third["scores"]["g"]) == 0.0
    alone = await service.post_ok(RANK, {**ASK, "candidates": ["Vamburg", "Vamburg"]})
    assert [one["scores"]["er_g"] for one in alone["results"]] == pytest.approx([1.0, 1.0])


async def test_scores_under_guidance_are_those_of_the_guided_distribution(service: Service) -> None:
    """log base + log guide, normalised: from Hugging Face models in float64."""
    base, polite = Reference(str(embedded.path("base"))), Reference(str(embedded.path("polite")))
    guided = {"logits": {"method": "genarm", "weights": {"polite": 0.7}}}
    candidates = ["Vamburg", "Pesdal, thank you"]
    asked = {**ASK, "candidates": candidates}
    answers = [
        await service.post_ok(RANK, {**asked, "decoding": guided}),
        await service.post_ok(RANK, {**asked, "model": "demo:polite", "decoding": guided}),
    ]
    prompt = base.tokenizer.encode(f"{QUESTION}\nAnswer:")
    for answer in answers:
        for one in answer["results"]:
            ids = base.tokenizer.encode(f" {one['text']}", add_special_tokens=False)
            wanted = guided_logprob(base, polite, 0.7, prompt, ids)
            assert one["logprobs"]["correct"] == pytest.approx(wanted, abs=1e-4)
    plain = await service.post_ok(RANK, asked)
    assert (
        abs(plain["results"][0]["logprobs"]["correct"] - answers[0]["results"][0]["logprobs"]["correct"])
        > 1e-3
    )


def guided_logprob(
    base: Reference, guide: Reference, weight: float, prompt: list[int], ids: list[int]
) -> float:
    import torch

    with torch.inference_mode():
        tokens = torch.tensor([[*prompt, *ids]])
        logs = [one.model(tokens).logits[0].double().log_softmax(-1) for one in (base, guide)]
    mixed = (logs[0] + weight * logs[1]).log_softmax(-1)
    return sum(float(mixed[len(prompt) + i - 1, token]) for i, token in enumerate(ids))


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"candidates": ["one"]}, "candidates", "at least 2"),
        ({"candidates": ["one", " "]}, "candidates.1", "not empty"),
        ({"candidates": ["one", ""]}, "candidates.1", "not empty"),
        ({"candidates": ["one", 2]}, "candidates.1", "Text is required"),
        ({"candidates": "one"}, "candidates", "list"),
        ({"candidates": [str(i) for i in range(9)]}, "candidates", "At most 8"),
        ({"candidates": ["word " * 120, "two"]}, "candidates", "allows 100"),
        ({"prompt": None}, "prompt", "either prompt or messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt", "either prompt or messages"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": [1, 2]}, "prompt", "string"),
        ({"ranking": "best"}, "ranking", "er_d"),
        ({"method": "majority"}, "method", "equilibrium"),
        ({"iterations": 0}, "iterations", "greater than or equal to 1"),
        ({"iterations": 10**6}, "iterations", "less than or equal to 100000"),
        ({"eta": 0}, "eta", "greater than 0"),
        ({"templates": {"generator": "no place"}}, "templates.generator", "{question}"),
        ({"templates": {"cue": "x"}}, "templates.cue", "Unknown field"),
        ({"engine": "huge"}, "engine", "base, small"),
        ({"rankings": 1}, "rankings", "Unknown field"),
        ({"stream": True}, "stream", "Unknown field"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs", "Does nothing"),
        ({"cache_salt": "decant.x"}, "cache_salt", "reserved"),
        ({"priority": 2}, "priority", "must be 0"),
        ({"decoding": {"sequence": {"method": "plain"}}}, "decoding.sequence", "leave it out"),
        (
            {"engine": "small", "decoding": {"logits": {"method": "genarm", "weights": {"polite": 1}}}},
            "decoding.logits.weights",
            "no such guide",
        ),
        ({"prompt": "word " * 3000}, "prompt", "2048"),
    ],
)
async def test_what_is_refused(
    engine: DecodingEngine, change: dict[str, Any], param: str, words: str
) -> None:
    service = Service(engine, candidates=8, candidate_tokens=100)
    where, message = await service.refused(RANK, {**ASK, **change})
    assert (where, words in message) == (param, True), (where, message)


async def test_a_question_that_is_no_text(service: Service) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    where, message = await service.refused(RANK, {"messages": messages, "candidates": ["a", "b"]})
    assert where == "messages"
    assert "last message must be the user's" in message


async def test_a_model_that_is_not_served(service: Service) -> None:
    assert (await service.post(RANK, {**ASK, "model": "nobody"})).status_code == 404


def test_the_limits_are_configuration() -> None:
    assert ServeSettings(model=None, limits={"candidates": 3}).limits.candidates == 3
