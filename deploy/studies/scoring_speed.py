"""What scoring candidates on a shared prompt costs, beside vLLM's prompt log-probabilities of each.

    .venv/bin/python -m deploy.studies.scoring_speed [--rounds N] [--candidates N] [--tokens N] [--prompt N]

The embedded base and a random Llama of about 100M parameters, each on an engine of its own process. Both ways
take turns in every round, each on a prompt that no cache knows; the values must agree.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from server.environment import prepare

prepare(engines=1, threads_per_engine=2, vllm_log_level="error", stop_strings=4)  # before vLLM is imported

from vllm.inputs import tokens_input  # noqa: E402
from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: E402

from decoders.sequence.candidates.scoring import score  # noqa: E402
from deploy.studies.ead_speed import PAIRS, make  # noqa: E402
from server import embedded  # noqa: E402
from server.acceptance import Engine  # noqa: E402
from server.config import ServeSettings  # noqa: E402
from server.engines import create, plan_engines  # noqa: E402
from server.metrics import EngineMetrics  # noqa: E402

ARGUMENTS = {"max_model_len": 1024, "block_size": 32, "dtype": "float32", "enforce_eager": True}


async def plainly(
    engine: Engine, prompt: list[int], candidates: list[list[int]], name: str
) -> list[list[float]]:
    """The whole of prompt and candidate computed for each, as a client of vLLM would."""
    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

    async def one(index: int, candidate: list[int]) -> list[float]:
        asked = tokens_input([*prompt, *candidate])
        outputs = [output async for output in engine.generate(asked, params.clone(), f"{name}-{index}")]
        rows = outputs[-1].prompt_logprobs
        assert rows is not None
        found = []
        for position, token in enumerate(candidate, len(prompt)):
            row = rows[position]
            assert row is not None
            found.append(row[token].logprob)
        return found

    return list(await asyncio.gather(*(one(i, candidate) for i, candidate in enumerate(candidates))))


async def study(name: str, path: str, options: argparse.Namespace) -> str:
    settings = ServeSettings(model=path, engine_args=ARGUMENTS)
    engine = create(plan_engines(settings)[0], EngineMetrics())
    draw = random.Random(7)
    times: dict[str, list[float]] = {"shared": [], "plain": []}
    try:
        for turn in range(options.rounds + 1):
            candidates = [
                [draw.randrange(10, 1200) for _ in range(options.tokens)] for _ in range(options.candidates)
            ]
            prompts = {way: [draw.randrange(10, 1200) for _ in range(options.prompt)] for way in times}
            took = {}
            began = time.perf_counter()
            scores = await score(engine, prompts["shared"], candidates, id=f"s{turn}")
            took["shared"] = time.perf_counter() - began
            began = time.perf_counter()
            await plainly(engine, prompts["plain"], candidates, f"p{turn}")
            took["plain"] = time.perf_counter() - began
            if turn == 0:  # warms up, and shows that both say the same
                expected = await plainly(engine, prompts["shared"], candidates, "check")
                for row, other in zip(scores.logprobs, expected, strict=True):
                    assert max(abs(a - b) for a, b in zip(row, other, strict=True)) < 1e-3
                continue
            for way, seconds in took.items():
                times[way].append(seconds)
    finally:
        engine.shutdown(timeout=10)
    ratio = statistics.median(a / b for a, b in zip(times["shared"], times["plain"], strict=True))
    shared, plain = (1e3 * statistics.median(times[way]) for way in times)
    whole = options.candidates * (options.prompt + options.tokens)
    asked = f"{options.prompt} | {options.candidates} x {options.tokens}"
    return f"| {name} | {asked} | {scores.computed} | {whole} | {shared:.0f} | {plain:.0f} | {ratio:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=10, help="of each candidate")
    parser.add_argument("--prompt", type=int, default=500, help="tokens")
    options = parser.parse_args()
    print("| model | prompt | candidates | tokens computed | plainly | ms | plainly, ms | of the time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), "large", PAIRS["10-100"]["large"], 1)
        for name, path in (("embedded base", str(embedded.path("base"))), ("98M, random", f"{folder}/large")):
            print(asyncio.run(study(name, path, options)), flush=True)


if __name__ == "__main__":
    main()
