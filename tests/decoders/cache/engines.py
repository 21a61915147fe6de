"""Real engines with cache methods, and what the tests here ask of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm import RequestOutput, SamplingParams
from vllm.inputs import TokensPrompt

from decoders import plugin
from decoders.cache.engine import cache_arguments
from decoders.cache.settings import REPORT
from decoders.request import DecodingRequest
from tests.decoders.logits.engines import engine_settings, reported, started

METHODS = ("kvmerger", "snapkv", "streaming")
BLOCK = 32


@dataclass
class Ask:
    """One request. cache: its `decoding.cache` object. params: of SamplingParams, over the defaults."""

    prompt: list[int]
    cache: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    report: str | None = None
    logits: Mapping[str, Any] | None = None

    def made(self) -> tuple[TokensPrompt, SamplingParams]:
        decoding = DecodingRequest.model_validate({"cache": self.cache, "logits": self.logits})
        extra: dict[str, Any] = {}
        for method in decoding.engine_methods():
            extra |= method.engine_arguments()
        if self.report is not None:
            extra[REPORT] = self.report
        settings = {
            "temperature": 0.0,
            "max_tokens": 24,
            "ignore_eos": True,
            "logprobs": -1,
            "detokenize": False,
            "extra_args": extra or None,
        }
        return TokensPrompt(prompt_token_ids=self.prompt), SamplingParams(**{**settings, **self.params})


class Engine:
    """A vLLM engine, with cache methods or, for `methods=()`, exactly vLLM's own."""

    def __init__(self, path: str, methods: Sequence[str] = METHODS, **arguments: Any) -> None:
        plugin.register()
        given = {"max_model_len": 1024, "enable_prefix_caching": False, "block_size": BLOCK, **arguments}
        settings = engine_settings(path, **given)
        self.llm = started(cache_arguments(methods, settings) if methods else settings)
        self.sound = True

    @property
    def scheduler(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def worker(self) -> Any:
        return self.llm.llm_engine.model_executor.driver_worker.worker

    def layers(self) -> list[Any]:
        from vllm.config import get_layers_from_vllm_config
        from vllm.model_executor.layers.attention import Attention

        return list(get_layers_from_vllm_config(self.llm.llm_engine.vllm_config, Attention).values())

    def run(self, asks: Sequence[Ask]) -> list[RequestOutput]:
        made = [ask.made() for ask in asks]
        assert self.sound, "the engine failed in an earlier test"
        self.sound = False
        outputs = self.llm.generate([one for one, _ in made], [one for _, one in made], use_tqdm=False)
        self.sound = True
        return outputs

    def used_blocks(self) -> int:
        pool = self.scheduler.kv_cache_manager.block_pool
        return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())

    @contextmanager
    def steps(self) -> Iterator[list[dict[str, Any]]]:
        """Meanwhile, for each step: how many requests run, and blocks in use once it is scheduled."""
        seen: list[dict[str, Any]] = []
        original = self.scheduler.schedule

        def schedule(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            seen.append(
                {
                    "running": len(self.scheduler.running),
                    "blocks": self.used_blocks(),
                    "tokens": dict(result.num_scheduled_tokens),
                }
            )
            return result

        self.scheduler.schedule = schedule
        try:
            yield seen
        finally:
            del self.scheduler.schedule

    @contextmanager
    def preemptions(self, every: int | None = None) -> Iterator[list[str]]:
        """The requests preempted meanwhile; with `every`, all that run are preempted every so many steps."""
        seen: list[str] = []
        scheduler = self.scheduler
        preempt, schedule = scheduler._preempt_request, scheduler.schedule
        count = 0

        def note(request: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(request.request_id)
            return preempt(request, *args, **kwargs)

        def storm(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if every is not None and count % every == 0:
                for request in list(scheduler.running)[::-1]:
                    scheduler.running.remove(request)
                    scheduler._preempt_request(request, 0.0)
            return schedule(*args, **kwargs)

        scheduler._preempt_request, scheduler.schedule = note, storm
        try:
            yield seen
        finally:
            del scheduler._preempt_request, scheduler.schedule


def tokens(output: RequestOutput) -> list[int]:
    return list(output.outputs[0].token_ids)


def logprobs(output: RequestOutput, vocabulary: int) -> Tensor:
    """Reported log-probabilities `[positions, vocab]`."""
    table = reported(output.outputs[0], vocabulary)
    assert not table.isnan().any()
    return table


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max())


def prompt(length: int, seed: int) -> list[int]:
    """Random words with repetitions, as text has them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 1216, (40,), generator=generator)
    return [1, *words[torch.randint(0, 40, (length - 1,), generator=generator)].tolist()]
