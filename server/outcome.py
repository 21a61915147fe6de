"""What guidance did for a request, as its report says it: of the tokens delivered, over all its sequences."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from decoders.logits.guidance import Outcome

logger = logging.getLogger("decant.server")

OF_ONE = ("mean_alpha", "alphas")  # what holds of one sequence, and has no sum
LOOK = 0.5  # seconds between looks at an engine that does not answer


class Outcomes:
    """Gathers a request's sequences, whose prompts end in any order, into the report's `logits` layer."""

    def __init__(self) -> None:
        self.prompts = 0
        self.sequences: list[dict[str, Any]] = []

    def begin(
        self, kind: RequestOutputKind, engine: EngineClient, key: str, layer: dict[str, Any]
    ) -> "PromptOutcome":
        """For the request's next prompt, of which `engine` keeps under `key` what it does; in order."""
        self.prompts += 1
        return PromptOutcome(self, self.prompts - 1, kind, engine, key, layer)

    def add(self, sequences: Sequence[dict[str, Any]], layer: dict[str, Any]) -> None:
        """Say in `layer` what was done: sums; of several sequences each one's alphas are told apart."""
        self.sequences += sequences
        self.sequences.sort(key=lambda one: (one["prompt"], one["choice"]))
        for name in ("tokens", "guided"):
            if all(name in one for one in self.sequences):
                layer[name] = sum(one[name] for one in self.sequences)
            else:
                layer.pop(name, None)
        own = [{name: one[name] for name in OF_ONE if name in one} for one in self.sequences]
        for name in OF_ONE:
            layer.pop(name, None)
        if len(own) == 1:
            layer.update(own[0])
        elif any(own):
            layer["sequences"] = self.sequences


class PromptOutcome:
    """Counts the tokens that one prompt's choices are given, and asks what was done when they have ended."""

    def __init__(
        self,
        outcomes: Outcomes,
        prompt: int,
        kind: RequestOutputKind,
        engine: EngineClient,
        key: str,
        layer: dict[str, Any],
    ) -> None:
        self.outcomes = outcomes
        self.prompt = prompt
        self.deltas = kind is RequestOutputKind.DELTA
        self.engine = engine
        self.key = key
        self.layer = layer
        self.answers: dict[int, list[int]] = {}  # token ids by choice

    async def add(self, output: RequestOutput) -> None:
        for choice in output.outputs:
            if self.deltas:
                self.answers.setdefault(choice.index, []).extend(choice.token_ids)
            else:
                self.answers[choice.index] = list(choice.token_ids)
        if output.finished:
            self.outcomes.add(await self._sequences(), self.layer)

    async def _sequences(self) -> list[dict[str, Any]]:
        """An engine that cannot tell any more does not spoil the answer: what was guided is then left out."""
        answers = list(self.answers.values())
        try:
            found = matched(await _ask(self.engine, self.key), answers)
        except Exception as error:
            logger.warning("no report of what was guided: %s", error)
            summaries: list[dict[str, Any]] = [{"tokens": len(answer)} for answer in answers]
        else:
            summaries = [one.summary(len(answer)) for one, answer in zip(found, answers, strict=True)]
        return [
            {"prompt": self.prompt, "choice": choice, **summary}
            for choice, summary in zip(self.answers, summaries, strict=True)
        ]


async def _ask(engine: EngineClient, key: str) -> list[Outcome]:
    asked = asyncio.ensure_future(engine.collective_rpc("decant_take_outcome", args=(key,)))
    try:
        # vLLM leaves a call that an engine's death overtakes without an answer.
        while not (await asyncio.wait((asked,), timeout=LOOK))[0]:
            if engine.errored:
                raise EngineDeadError
    finally:
        asked.cancel()
    results: list[list[dict[str, Any]]] = asked.result()
    # With tensor parallelism one worker samples.
    return [Outcome.from_wire(one) for one in next((found for found in results if found), [])]


def matched(outcomes: Sequence[Outcome], answers: Sequence[Sequence[int]]) -> list[Outcome]:
    """Each answer's own outcome, told by its tokens; an empty one where nothing was done."""
    left = list(outcomes)
    found = []
    for answer in answers:
        best = max(left, key=lambda one: _likeness(one.output, answer), default=None)
        if best is not None:
            left.remove(best)
        found.append(best if best is not None else Outcome())
    return found


def _likeness(output: Sequence[int], answer: Sequence[int]) -> tuple[int, int]:
    """How many first tokens agree; of outcomes alike in this the one of the nearest length is meant.

    The last token may be missing from `output`, or follow the answer's last.
    """
    agree = next((i for i, (a, b) in enumerate(zip(output, answer, strict=False)) if a != b), None)
    return (min(len(output), len(answer)) if agree is None else agree, -abs(len(output) - len(answer)))
