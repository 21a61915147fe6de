"""Methods that choose among sampled answers, through the OpenAI routes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from server import embedded
from server.engine import DecodingEngine
from tests.decoders.sequence.candidates.reference import Reference
from tests.server.http import Service

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
QUESTION = "What is the capital of Tovand?"
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 12,
    "temperature": 1.3,
    "seed": 7,
}
GUIDE = {"type": "guide", "guide": "polite"}
METHODS: list[dict[str, Any]] = [
    {"method": "equilibrium"},
    {"method": "best_of_n", "reward": GUIDE},
    {"method": "best_of_n", "reward": {"type": "verdict"}},
    {"method": "best_of_n", "reward": {"type": "logprob"}},
    {"method": "majority"},
    {"method": "mbr"},
    {"method": "residual_ebm", "reward": GUIDE},
    {"method": "conformal", "max_similarity": 1.0, "min_quality": 0.0, "stop": 1e6},
]
NAMES = [
    " ".join([method["method"], *([method["reward"]["type"]] if "reward" in method else [])])
    for method in METHODS
]


def choosing(method: dict[str, Any], **fields: Any) -> dict[str, Any]:
    decoding = {"sequence": {"candidates": 6, **method}, "report": True}
    return {**ASK, "decoding": decoding, **fields}


@pytest.fixture
def service(engine: DecodingEngine) -> Service:
    return Service(engine)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not within 30 s")


def sequence(answer: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = answer["decoding"]["sequence"]
    return report


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
async def test_the_choices_are_the_best_candidates_in_order(service: Service, method: dict[str, Any]) -> None:
    answer = await service.post_ok(CHAT, choosing(method, n=3))
    report = sequence(answer)
    rows = report["candidates"]
    assert sum(row["count"] for row in rows) == 6
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    expected = [row["text"] for row in rows][:3]
    assert texts[: len(expected)] == expected
    assert all(row["scores"] for row in rows if row["answer"] is not None)
    assert report["method"] == method["method"]


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
async def test_usage_counts_every_token(
    service: Service, engine: DecodingEngine, method: dict[str, Any]
) -> None:
    method = {**method, "early": False} if method["method"] == "majority" else method
    answer = await service.post_ok(CHAT, choosing(method))
    usage, report = answer["usage"], sequence(answer)
    sampled = sum(report["tokens"].values())
    assert usage["completion_tokens"] == sampled > len(report["candidates"])
    assert usage.get("scoring_tokens", 0) == report.get("scored_tokens", 0)
    scores = method["method"] == "equilibrium" or method.get("reward", {}).get("type") in ("guide", "verdict")
    assert (usage.get("scoring_tokens", 0) > 0) == scores
    total = usage["prompt_tokens"] + sampled + usage.get("scoring_tokens", 0)
    assert usage["total_tokens"] == total
    if method["method"] != "equilibrium":
        single = {row["text"]: row["tokens"] for row in report["candidates"] if row["count"] == 1}
        assert sampled >= sum(single.values())


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
async def test_a_stream_is_the_whole_answer(service: Service, method: dict[str, Any]) -> None:
    whole = await service.post_ok(CHAT, choosing(method))
    body = choosing(method, stream=True, stream_options={"include_usage": True})
    response = await service.post(CHAT, body)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    ends = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert ends[-1] == whole["choices"][0]["finish_reason"]
    assert events[-1]["choices"] == []
    if method["method"] != "majority":  # which may stop sampling a token earlier or later
        assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert sequence(events[-1])["candidates"][0]["text"] == text


@pytest.mark.parametrize("method", METHODS[:1] + METHODS[4:5])
async def test_text_completions(service: Service, method: dict[str, Any]) -> None:
    body = {k: v for k, v in choosing(method, n=2, prompt=QUESTION, logprobs=2).items() if k != "messages"}
    answer = await service.post_ok(TEXT, body)
    assert answer["choices"][0]["text"] == sequence(answer)["candidates"][0]["text"]
    for choice in answer["choices"]:
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"]) > 0
        assert all(value <= 0 for value in choice["logprobs"]["token_logprobs"])


async def test_stop_strings_grammars_and_token_limits_hold_for_every_candidate(service: Service) -> None:
    stopped = await service.post_ok(CHAT, choosing({"method": "mbr"}, n=3, stop=["capi"], logprobs=True))
    for choice in stopped["choices"]:
        assert "capi" not in choice["message"]["content"]
        if choice["stop_reason"] == "capi":
            assert choice["finish_reason"] == "stop"
    constraint = {"choice": ["Vamburg", "Pesdal"]}
    bound = await service.post_ok(CHAT, choosing({"method": "majority"}, n=6, structured_outputs=constraint))
    assert {choice["message"]["content"] for choice in bound["choices"]} <= {"Vamburg", "Pesdal"}
    short = await service.post_ok(CHAT, choosing({"method": "majority"}, n=6, max_tokens=2))
    assert all(choice["finish_reason"] in ("length", "stop") for choice in short["choices"])
    assert sum(sequence(short)["tokens"].values()) <= 12


async def test_a_seed_gives_the_same_answers_again(service: Service) -> None:
    for method in METHODS[-3:]:
        first, second = [await service.post_ok(CHAT, choosing(method, n=2)) for _ in range(2)]
        assert first["choices"] == second["choices"]


async def test_a_guides_reward_is_its_own_log_probability(service: Service) -> None:
    """Of the sampled tokens, by a Hugging Face model in float64; whatever guides the sampling."""
    guide = Reference(str(embedded.path("brief")))
    tokenizer = guide.tokenizer
    turn = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    for logits in (None, {"method": "genarm", "weights": {"polite": 1.0}}):
        body = choosing(
            {"method": "best_of_n", "reward": {"type": "guide", "guide": "brief"}}, n=6, return_token_ids=True
        )
        if logits is not None:
            body["decoding"]["logits"] = logits
        for _ in range(2):  # the second time with a warm cache
            answer = await service.post_ok(CHAT, body)
            ids = {one["message"]["content"]: one["token_ids"] for one in reversed(answer["choices"])}
            rows = sequence(answer)["candidates"]
            assert len(rows) > 1
            for row in rows:
                wanted = sum(guide.rows(prompt, ids[row["text"]]))
                assert row["scores"]["reward"] == pytest.approx(wanted, abs=2e-4)
            rewards = [row["scores"]["reward"] for row in rows]
            assert rewards == sorted(rewards, reverse=True)


async def test_majority_stops_when_the_vote_is_settled(service: Service) -> None:
    """All samples agree at a low temperature, so that half of them and one are enough."""
    asked = {"temperature": 0.01, "max_tokens": 12}
    early = await service.post_ok(CHAT, choosing({"method": "majority", "candidates": 12}, **asked))
    late = await service.post_ok(
        CHAT, choosing({"method": "majority", "candidates": 12, "early": False}, **asked)
    )
    assert sequence(late)["completed"] == 12
    assert 7 <= sequence(early)["completed"] <= 12
    assert early["choices"][0]["message"] == late["choices"][0]["message"]
    # Samples of different lengths, so that some are far from their end when the vote is settled.
    body = choosing({"method": "majority", "candidates": 12, "extract": {"type": "regex", "pattern": "^.."}})
    stories = {"messages": [{"role": "user", "content": "Write a story."}], "max_tokens": 200}
    cut = sequence(await service.post_ok(CHAT, {**body, **stories, "temperature": 0.7}))
    assert cut["completed"] < 12


async def test_a_conformal_set_grows_in_the_order_of_drawing(service: Service) -> None:
    everything = METHODS[-1]
    calibration = {"eps": 0.1, "delta": 0.05, "questions": 50}
    whole = sequence(await service.post_ok(CHAT, choosing(everything)))
    assert len(whole["samples"]) == 6
    assert all(one["kept"] for one in whole["samples"])
    assert not whole["complete"]
    qualities = [one["quality"] for one in whole["samples"]]
    assert all(0 < quality <= 1 for quality in qualities)
    stop = sorted(qualities)[3]
    first = next(i for i, quality in enumerate(qualities) if quality >= stop)
    least = sorted(qualities[: first + 1])[0]
    asked = {**everything, "stop": stop, "min_quality": least, "calibration": calibration}
    answer = await service.post_ok(CHAT, choosing(asked))
    cut = sequence(answer)
    assert cut["samples"] == whole["samples"][: first + 1]
    assert cut["complete"]
    assert cut["calibration"] == {**calibration, "date": "", "data": ""}
    assert answer["choices"][0]["message"]["content"] == whole["samples"][first]["text"]
    # A copy of a kept answer is rejected, and what is poor.
    strict = sequence(await service.post_ok(CHAT, choosing({**everything, "max_similarity": 0.99})))
    texts = [one["text"] for one in strict["samples"] if one["kept"]]
    assert len(texts) == len(set(texts)) == len(strict["set"])
    poor = sequence(await service.post_ok(CHAT, choosing({**everything, "min_quality": 1.0})))
    assert poor["set"] == []


async def test_a_client_that_leaves_ends_every_candidate(service: Service, engine: DecodingEngine) -> None:
    for method in METHODS[:1] + METHODS[4:5]:
        body = choosing(method, max_tokens=1500, ignore_eos=True)
        task = asyncio.create_task(service.post(CHAT, body))
        await until(engine.base.output_processor.has_unfinished_requests)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not engine.base.output_processor.has_unfinished_requests())
        assert not engine.active
        assert not engine.output_processor.has_unfinished_requests()


async def test_an_abort_ends_what_is_chosen_among(service: Service, engine: DecodingEngine) -> None:
    body = choosing({"method": "mbr"}, max_tokens=1500, ignore_eos=True)
    task = asyncio.create_task(service.post(CHAT, body))
    await until(engine.base.output_processor.has_unfinished_requests)
    assert await engine.abort_all() == 1
    engine.closed = False
    response = await asyncio.wait_for(task, 60)
    assert response.json()["choices"][0]["finish_reason"] == "abort"
    await until(lambda: not engine.base.output_processor.has_unfinished_requests())


@pytest.mark.parametrize(
    ("method", "change", "param", "words"),
    [
        ({"method": "mbr"}, {"temperature": 0}, "temperature", "above 0"),
        ({"method": "mbr"}, {"n": 7}, "n", "at most the 6"),
        (
            {"method": "mbr", "candidates": 1},
            {},
            "decoding.sequence.candidates",
            "greater than or equal to 2",
        ),
        ({"method": "mbr", "candidates": 9}, {}, "decoding.sequence.candidates", "At most 8"),
        ({"method": "mbr"}, {"max_tokens": 200}, "max_tokens", "allows 1000"),
        ({"method": "mbr"}, {"max_tokens": None}, "max_tokens", "allows 1000"),
        ({"method": "mbr"}, {"prompt_logprobs": 1}, "prompt_logprobs", "cannot be combined"),
        (
            {"method": "mbr"},
            {"logprob_token_ids": [5], "logprobs": True},
            "logprob_token_ids",
            "cannot be combined",
        ),
        ({"method": "mbr"}, {"use_beam_search": True}, "use_beam_search", "Beam search"),
        ({"method": "mbr", "engine": "huge"}, {}, "decoding.sequence.engine", "base, small"),
        ({"method": "mbr", "utility": "bleu"}, {}, "decoding.sequence.utility", "chrf"),
        ({"method": "best_of_n"}, {}, "decoding.sequence.reward", "required"),
        (
            {"method": "best_of_n", "reward": {"type": "guide", "guide": "rude"}},
            {},
            "decoding.sequence.reward.guide",
            "polite, brief",
        ),
        (
            {"method": "best_of_n", "engine": "small", "reward": GUIDE},
            {},
            "decoding.sequence.reward.guide",
            "none",
        ),
        (
            {"method": "majority", "extract": {"type": "regex", "pattern": "("}},
            {},
            "decoding.sequence.extract.pattern",
            "no regular expression",
        ),
    ],
)
async def test_what_is_refused(
    engine: DecodingEngine, method: dict[str, Any], change: dict[str, Any], param: str, words: str
) -> None:
    service = Service(engine, candidates=8, candidate_tokens=1000)
    body = {k: v for k, v in choosing(method, **change).items() if k != "report"}
    if "use_beam_search" in change:
        body.pop("seed")
    where, message = await service.refused(CHAT, body)
    assert (where, words in message) == (param, True), (where, message)


async def test_prompts_that_cannot_be_asked(service: Service) -> None:
    body = {k: v for k, v in choosing(METHODS[0]).items() if k != "messages"}
    where, message = await service.refused(TEXT, {**body, "prompt": [5, 6, 7]})
    assert (where, "as text" in message) == ("prompt", True)
    where, message = await service.refused(TEXT, {**body, "prompt": ["a", "b"]})
    assert (where, "one prompt" in message) == ("prompt", True)


async def test_a_conversation_without_a_question_is_refused_before_anything_is_sampled(
    service: Service, engine: DecodingEngine
) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    for method in (METHODS[0], METHODS[2]):
        for stream in (False, True):
            where, message = await service.refused(CHAT, choosing(method, messages=turns, stream=stream))
            assert (where, "last message must be the user's" in message) == ("messages", True)
    assert not engine.base.output_processor.has_unfinished_requests()
