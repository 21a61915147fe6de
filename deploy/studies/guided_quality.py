"""What guidance does to the embedded model's reviews, asked over HTTP of a running server.

    .venv/bin/decant serve &
    .venv/bin/python -m deploy.studies.guided_quality [--url URL] [--samples N] [--out FILE.md]

For each weight, reviews sampled at temperature 1: the share with more kind words than rude ones, their
length, and the base's perplexity of what was sampled (the request reports the base's logprobs). A seed is set
for each request.
"""

import argparse
import asyncio
import math
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI

from server.embedded.recipe.evaluate import KIND_WORDS, RUDE_WORDS

PLACES = ("hotel", "park", "museum", "market")
WEIGHTS: list[dict[str, float]] = [
    {"polite": 0.0},
    *({"polite": weight} for weight in (0.1, 0.2, 0.5, 1.0, 2.0)),
    *({"brief": weight} for weight in (0.2, 1.0, 2.0)),
    {"polite": 1.0, "brief": 1.0},
]


@dataclass
class Review:
    text: str
    logprobs: list[float]

    @property
    def kind(self) -> bool:
        words = self.text.replace(".", " ").replace(",", " ").split()
        return sum(word in KIND_WORDS for word in words) > sum(word in RUDE_WORDS for word in words)


async def sample(client: AsyncOpenAI, weights: dict[str, float], seed: int) -> Review:
    answer = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": f"Write a review of the {PLACES[seed % len(PLACES)]}."}],
        temperature=1,
        max_tokens=120,
        seed=seed,
        logprobs=True,
        extra_body={"decoding": {"logits": {"method": "genarm", "weights": weights, "logprobs": "base"}}},
    )
    choice = answer.choices[0]
    tokens = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    return Review(choice.message.content or "", [token.logprob for token in tokens])


def row(weights: dict[str, float], reviews: list[Review]) -> str:
    scores = [value for review in reviews for value in review.logprobs]
    name = ", ".join(f"{guide} {weight:g}" for guide, weight in weights.items())
    share = sum(review.kind for review in reviews) / len(reviews)
    # A binomial share's standard error says how far apart two of them must be to mean something.
    error = math.sqrt(share * (1 - share) / len(reviews))
    tokens = len(scores) / len(reviews)
    return (
        f"| {name} | {share:.3f} ± {error:.3f} | {tokens:.1f} | {math.exp(-sum(scores) / len(scores)):.2f} |"
    )


async def study(url: str, samples: int) -> list[str]:
    lines = ["| weights | kind (± standard error) | tokens | perplexity of base |", "|---|--:|--:|--:|"]
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        for weights in WEIGHTS:
            reviews = await asyncio.gather(*(sample(client, weights, seed) for seed in range(samples)))
            lines.append(row(weights, list(reviews)))
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = asyncio.run(study(options.url, options.samples))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
