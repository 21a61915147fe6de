"""What the choosing methods decide, on samples made by hand."""

import math
from collections import Counter
from random import Random

import pytest
from vllm.logprobs import Logprob

from decoders.method import Job
from decoders.report import Report
from decoders.sequence.candidates.answers import LastLine, Whole
from decoders.sequence.candidates.choosing import Candidate, delivered, finite, pooled
from decoders.sequence.candidates.likeness import likeness
from decoders.sequence.candidates.sampling import Sample
from decoders.sequence.majority import settled
from decoders.sequence.mbr import expected_utilities
from decoders.sequence.residual_ebm import drawn_order

WHOLE = Whole(type="whole")


def sample(index: int, text: str, *logprobs: float, finish: str = "stop") -> Sample:
    rows = [{7: Logprob(logprob=value, rank=1)} for value in logprobs or (-1.0,)]
    return Sample(index, [7] * len(rows), rows, text, finish)


def job(choices: int) -> Job:
    from vllm.sampling_params import SamplingParams

    return Job("j", [1], SamplingParams(), Report(), None, choices=choices)  # type: ignore[arg-type]


def test_samples_of_one_answer_are_one_candidate_with_its_likeliest_first() -> None:
    samples = [
        sample(0, "Four.", -2.0),
        sample(1, "", -0.1),
        sample(2, "four", -1.0, -0.2),
        sample(3, "five", -3.0),
        sample(4, "five", -0.1, finish="error"),
    ]
    pool, rest = pooled(samples, WHOLE)
    assert [(one.answer, [each.index for each in one.samples]) for one in pool] == [
        ("four", [2, 0]),
        ("five", [3]),
    ]
    assert [one.index for one in rest] == [1, 4]
    assert pool[0].best.mean_logprob == pytest.approx(-0.6)
    assert pool[0].best.logprob == pytest.approx(-1.2)


def test_choices_are_distinct_first_and_never_too_few() -> None:
    pool, rest = pooled([sample(i, text) for i, text in enumerate(["a", "b", "a", "", "b", "a"])], WHOLE)
    order = [pool[1], pool[0]]
    chunks = delivered(order, rest, job(6), "base")
    texts = [
        one.index for one in [*(c.best for c in order), *rest, *(s for c in order for s in c.samples[1:])]
    ]
    assert len(chunks) == 6
    assert texts == [1, 0, 3, 4, 2, 5]
    assert all(chunk.logprobs is None for chunk in chunks)


def test_answers_that_nothing_extracts() -> None:
    pool, rest = pooled([sample(0, "\n"), sample(1, "", -9.0)], LastLine(type="last_line"))
    assert pool == []
    assert [one.index for one in rest] == [0, 1]


@pytest.mark.parametrize(
    ("answers", "coming", "over"),
    [
        (["a", "a", "a"], 2, True),
        (["a", "a", "a"], 3, False),
        (["a", "b", "a", "a"], 1, True),
        (["a", "b", "a"], 1, False),
        (["a", None, "a"], 1, True),
        ([None, None], 0, False),
        (["a"], 0, True),
        (["a", "b"], 0, False),
    ],
)
def test_when_a_vote_is_settled(answers: list[str | None], coming: int, over: bool) -> None:
    assert settled(answers, coming) is over


def test_settled_means_that_nothing_to_come_can_change_the_winner() -> None:
    draw = Random(3)
    for _ in range(300):
        votes = [draw.choice("aabc") for _ in range(8)]
        for seen in range(1, 9):
            if settled(list(votes[:seen]), 8 - seen):
                winner = Counter(votes[:seen]).most_common(1)[0][0]
                for other in "abcd":  # the worst that can come
                    final = Counter([*votes[:seen], *[other] * (8 - seen)])
                    assert all(final[winner] > count for name, count in final.items() if name != winner)
                break


def test_mbr_takes_the_answer_most_like_the_others() -> None:
    texts = ["the cat sat on the mat", "the cat sat on a mat", "a dog ran away"]
    means = expected_utilities(texts, [1, 1, 1], "chrf")
    assert max(range(3), key=lambda i: means[i]) in (0, 1)
    assert means[2] < min(means[:2])
    assert expected_utilities(["x", "y"], [1, 3], "exact") == [0.25, 0.75]


def naive_chrf(hypothesis: str, reference: str) -> float:
    """chrF2 from its definition: F2 of precision and recall, averaged over n-gram orders 1 to 6 that
    occur.
    """
    precisions, recalls = [], []
    for n in range(1, 7):
        h, r = ("".join(text.split()) for text in (hypothesis, reference))
        ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (h, r))
        if not ours or not theirs:
            continue
        hits = sum((ours & theirs).values())
        precisions.append(hits / sum(ours.values()))
        recalls.append(hits / sum(theirs.values()))
    p, r_ = (sum(values) / len(values) if values else 0.0 for values in (precisions, recalls))
    return 5 * p * r_ / (4 * p + r_) if p + r_ else 0.0


@pytest.mark.parametrize(
    ("a", "b"),
    [("the cat sat", "the cat sat down"), ("abcdefg", "abcdefh"), ("hello", "world"), ("x y z", "xyz")],
)
def test_likeness_is_chrf(a: str, b: str) -> None:
    assert likeness("chrf", a, b) == pytest.approx(naive_chrf(a, b), abs=1e-9)
    assert likeness("chrf", a, a) == pytest.approx(1.0)


def test_likeness_of_nothing() -> None:
    assert (likeness("chrf", "", "a"), likeness("chrf", " ", ""), likeness("exact", "A.", "a")) == (
        0.0,
        1.0,
        1.0,
    )


def test_resampling_draws_by_weight() -> None:
    weights = [0.5, 0.3, 0.2]
    logs = [math.log(weight) - 700 for weight in weights]
    draw = Random(11)
    orders = [drawn_order(logs, draw) for _ in range(20000)]
    for y, weight in enumerate(weights):
        share = sum(order[0] == y for order in orders) / len(orders)
        assert share == pytest.approx(weight, abs=0.015)
    # The second is drawn from those that are left.
    after = [order[1] for order in orders if order[0] == 0]
    assert after.count(1) / len(after) == pytest.approx(0.6, abs=0.02)


def test_numbers_that_json_cannot_hold() -> None:
    assert [finite(value) for value in (-math.inf, math.inf, -3.5)] == [-9999.0, 9999.0, -3.5]
    assert Candidate("a", [sample(0, "a")]).best.index == 0
