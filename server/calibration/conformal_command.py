"""`decant calibrate conformal`: samples of a server, labelled by the data's answers, to thresholds."""

import asyncio
import sys
import textwrap
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import yaml
from tqdm import tqdm

from decoders.sequence.candidates.likeness import likeness
from server.calibration import preset
from server.calibration.client import question
from server.calibration.conformal import Chosen, Labelled, calibrate
from server.calibration.connect import connected
from server.calibration.data import Prompt, read_prompts, with_answers
from server.calibration.errors import CalibrationError
from server.calibration.quality import is_right
from server.calibration.settings import ConformalSettings

FEWEST: Final = 20  # questions; fewer show nothing
ALL: Final = {
    "max_similarity": 1.0,
    "min_quality": 0.0,
    "stop": 1e6,
}  # thresholds that reject and stop nothing


def run(options: ConformalSettings) -> int:
    """The exit status: 0 for thresholds with the guarantee, 1 if none were found."""
    if options.write_preset is not None:
        preset.require_writable(options.write_preset)
    prompts = read_prompts(options.data, options.limit)
    if not with_answers(prompts):
        raise CalibrationError(f"{options.data}: every line needs an answer, to tell what is acceptable")
    if len(prompts) < FEWEST:
        raise CalibrationError(f"{options.data}: at least {FEWEST} questions are needed")
    questions = asyncio.run(_ask(options, prompts))
    chosen = calibrate(questions, options.eps, options.delta, options.set_score, options.seed)
    ever = sum(any(one.acceptable) for one in questions)
    print(
        f"{ever} of {len(questions)} questions have an acceptable answer among {options.candidates} samples."
    )
    if chosen.thresholds is None or chosen.held is None:
        raise CalibrationError(
            f"no thresholds could be shown to keep eps {options.eps:g} on {chosen.questions} questions; "
            f"allow a larger "
            "eps or delta, more candidates, or give more questions"
        )
    sequence = _sequence(options, chosen)
    print(_statement(options, chosen))
    print(yaml.safe_dump({"sequence": sequence}, sort_keys=False).rstrip())
    if options.write_preset is not None:
        _write(options, chosen, sequence)
        print(f"The preset is in {options.write_preset}.")
    return 0


async def _ask(options: ConformalSettings, prompts: Sequence[Prompt]) -> list[Labelled]:
    async with connected(options.url, options.key(), options.config, options.concurrency) as client:
        gate = asyncio.Semaphore(options.concurrency)
        bar = tqdm(total=len(prompts), unit="question", disable=None, file=sys.stderr, dynamic_ncols=True)

        async def one(prompt: Prompt) -> Labelled:
            async with gate:
                path, body = _request(options, prompt)
                reply = await client.post(path, body, f"line {prompt.line}: ")
            labelled = await asyncio.to_thread(_labelled, options, prompt, reply.body)
            bar.update()
            return labelled

        with bar:
            return list(await asyncio.gather(*map(one, prompts)))


def _request(options: ConformalSettings, prompt: Prompt) -> tuple[str, dict[str, Any]]:
    method = {"method": "conformal", "candidates": options.candidates, "quality": options.quality}
    body: dict[str, Any] = {
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": options.seed + 10_000 * prompt.line,  # vLLM counts on from it for each sample
        "decoding": {"sequence": {**method, **ALL}, "report": True},
        **({"model": options.model} if options.model else {}),
    }
    path, asked = question(prompt.ask, options.prompt_as == "text")
    return path, {**body, **asked}


def _labelled(options: ConformalSettings, prompt: Prompt, answer: Any) -> Labelled:
    samples = answer["decoding"]["sequence"]["samples"]
    texts = [one["text"] for one in samples]
    return Labelled(
        [one["quality"] for one in samples],
        [is_right(text, prompt.accepted, options.match) for text in texts],
        [[likeness("chrf", one, other) for other in texts] for one in texts],
    )


def _sequence(options: ConformalSettings, chosen: Chosen) -> dict[str, Any]:
    assert chosen.thresholds is not None
    return {
        "method": "conformal",
        "candidates": options.candidates,
        "quality": options.quality,
        "set_score": options.set_score,
        "max_similarity": chosen.thresholds.similarity,
        "min_quality": chosen.thresholds.quality,
        "stop": chosen.thresholds.stop,
        "calibration": {
            "eps": options.eps,
            "delta": options.delta,
            "questions": chosen.questions,
            "date": date.today().isoformat(),
            "data": options.data.name[:256],
        },
    }


def _statement(options: ConformalSettings, chosen: Chosen) -> str:
    assert chosen.held is not None
    return (
        f"On questions like these, sampled in the same way, at most {options.eps:.1%} of the sets hold no "
        f"acceptable "
        f"answer, with probability {1 - options.delta:.1%} over the choice of the calibration's questions. "
        f"On the "
        f"{chosen.questions} questions of the calibration split {chosen.held.misses} sets held none "
        f"({chosen.held.risk:.1%}); a set had {chosen.held.size:.2f} answers of {chosen.held.samples:.2f} "
        f"samples."
    )


def _write(options: ConformalSettings, chosen: Chosen, sequence: dict[str, Any]) -> None:
    assert options.write_preset is not None
    lines = textwrap.wrap(
        _statement(options, chosen), preset.COLUMNS, initial_indent="# ", subsequent_indent="# "
    )
    lines.append(f"# Ask with temperature {options.temperature:g} and max_tokens {options.max_tokens}.")
    entry = {
        "description": f"A set of answers with an acceptable one, but for {options.eps:.0%}.",
        "decoding": {"sequence": sequence},
    }
    text = [f"{preset.FIRST} conformal, {date.today().isoformat()}.", *lines]
    body = yaml.safe_dump({"presets": {options.name: entry}}, sort_keys=False)
    preset.write(options.write_preset, "\n".join(text) + "\n" + body)
