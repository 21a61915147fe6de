"""Engines that speculate, in this process, and what can be seen of them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from llvmlite.binding import ffi
from pydantic import TypeAdapter
from vllm import SamplingParams, TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput

from decoders import plugin
from decoders.speculative.arguments import speculative_arguments
from decoders.speculative.settings import SpeculativeSettings
from decoders.speculative.steps import Steps
from tests.decoders.logits.engines import engine_settings, started

# vLLM looks at every object in the process when an engine is made, and numba's, which ngram loads, answer to
# any name. In a server every engine has a process of its own.
ffi._lib_fn_wrapper.get = lambda *_: None

SETTINGS: TypeAdapter[Any] = TypeAdapter(SpeculativeSettings)


def prompts(count: int, longest: int, tokens: int = 1216) -> list[list[int]]:
    """Random prompts of unequal lengths, the same ones for the same arguments."""
    seeded = torch.Generator().manual_seed(count * 1000 + longest)
    lengths = [longest - 5 * (i % 6) for i in range(count)]
    return [torch.randint(0, tokens, (length,), generator=seeded).tolist() for length in lengths]


class Engine:
    """A vLLM engine, speculating or not."""

    def __init__(self, model: str, speculative: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        plugin.register()
        settings = engine_settings(
            model, **{"skip_tokenizer_init": True, "disable_log_stats": False, **arguments}
        )
        if speculative is not None:
            settings = speculative_arguments(SETTINGS.validate_python(speculative), settings)
        self.llm = started(settings)

    @property
    def worker(self) -> Any:
        return self.llm.llm_engine.model_executor.driver_worker.worker

    @property
    def steps(self) -> Steps:
        steps: Steps = self.worker.steps
        return steps

    def run(self, given: Sequence[Sequence[int]], **params: Any) -> list[RequestOutput]:
        sampling = SamplingParams(
            **{"temperature": 0.0, "max_tokens": 40, "ignore_eos": True, "detokenize": False, **params}
        )
        return self.llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids)) for ids in given], sampling, use_tqdm=False
        )

    def tokens(self, given: Sequence[Sequence[int]], **params: Any) -> list[list[int]]:
        return [list(output.outputs[0].token_ids) for output in self.run(given, **params)]

    def preemptions(self) -> float:
        return sum(m.value for m in self.llm.get_metrics() if m.name == "vllm:num_preemptions")

    @contextlib.contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Tokens drafted and accepted meanwhile."""
        before = self.steps.drafted, self.steps.accepted
        counts: dict[str, int] = {}
        yield counts
        counts["drafted"] = self.steps.drafted - before[0]
        counts["accepted"] = self.steps.accepted - before[1]


class Scripted:
    """In a governor's place: drafts in some steps and not in others, whatever it costs."""

    def __init__(self, pattern: Sequence[bool]) -> None:
        self.pattern, self.asked, self.last = pattern, 0, (True,)
        self.counts: dict[str, int] = {}

    def drafts(self, rows: int) -> bool:
        self.asked += 1
        return self.pattern[self.asked % len(self.pattern)]

    def observe(self, *_: Any) -> None:
        pass

    def interrupt(self) -> None:
        pass


def drafted_per_step(choice: CompletionOutput) -> list[int]:
    return list(choice.spec_decode_metrics.per_step_drafted)
