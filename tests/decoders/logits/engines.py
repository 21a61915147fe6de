"""Engines with guides in this process, requests to them as the server makes them, and the comparison."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput

from decoders import plugin
from decoders.logits.engine import guided_arguments
from decoders.logits.guidance import Outcome
from decoders.logits.wire import REPORT
from decoders.request import DecodingRequest
from tests.decoders.logits.models import TOKENS
from tests.decoders.logits.reference import Expected, Oracle

CLOSE = 1e-4  # nats: the promise, and the gap below which a token may be the second best
NEVER = -1000.0  # nats: no float tells a probability below from zero


@dataclass
class Ask:
    """One request. decoding: its `decoding.logits` object. params: of SamplingParams, over the defaults."""

    prompt: list[int]
    decoding: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    salt: str | None = None
    report: str | None = None

    def made(self) -> tuple[TokensPrompt, SamplingParams]:
        decoding = DecodingRequest.model_validate({"logits": self.decoding})
        extra: dict[str, Any] = {}
        for method in decoding.engine_methods():
            extra |= method.engine_arguments()
        if self.report is not None:
            extra[REPORT] = self.report
        settings = {
            "temperature": 0.0,
            "max_tokens": 16,
            "ignore_eos": True,
            "logprobs": 20,
            "detokenize": False,
            "extra_args": extra or None,
        }
        salt = decoding.cache_salt(self.salt)
        prompt = TokensPrompt(prompt_token_ids=self.prompt, **({"cache_salt": salt} if salt else {}))
        return prompt, SamplingParams(**{**settings, **self.params})


def engine_settings(path: str, **arguments: Any) -> dict[str, Any]:
    return {
        "model": path,
        "dtype": "float32",
        "max_model_len": 256,
        "block_size": 32,
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": 32 << 20,
        "max_num_seqs": 16,
        "max_logprobs": -1,
        "seed": 0,
        **arguments,
    }


def started(arguments: Mapping[str, Any]) -> LLM:
    llm = LLM(**arguments)
    # Collected or shut down, an engine takes the process groups from under all others in the process.
    llm.llm_engine.engine_core._finalizer.detach()
    return llm


class Engine:
    """A vLLM engine with guides and the oracle that judges it."""

    def __init__(self, oracle: Oracle, base: str, guides: Sequence[str], **arguments: Any) -> None:
        plugin.register()
        self.oracle, self.base, self.sound = oracle, base, True
        settings = engine_settings(oracle.paths[base], **arguments)
        self.llm = started(guided_arguments({name: oracle.paths[name] for name in guides}, settings))

    @property
    def model(self) -> Any:
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()

    @property
    def scheduler(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    def run(self, asks: Sequence[Ask]) -> list[RequestOutput]:
        made = [ask.made() for ask in asks]
        prompts, params = [prompt for prompt, _ in made], [params for _, params in made]
        # What a failed step leaves unfinished would be waited for without end.
        assert self.sound, "the engine failed in an earlier test"
        self.sound = False
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        self.sound = True
        return outputs

    def outcome(self, key: str) -> list[dict[str, Any]]:
        """What the server's report is made of."""
        (found,) = self.llm.collective_rpc("decant_take_outcome", args=(key,))
        return [Outcome.from_wire(one).summary() for one in found]

    def forget(self) -> None:
        assert self.llm.reset_prefix_cache()

    def expected(self, ask: Ask, choice: CompletionOutput) -> Expected:
        """What the oracle says of the tokens that the engine chose before each position."""
        return self.oracle.expected(self.base, ask.prompt, list(choice.token_ids), ask.decoding)

    def run_checked(self, asks: Sequence[Ask]) -> list[RequestOutput]:
        """Reported logprobs and greedy tokens of every choice are the oracle's."""
        outputs = self.run_checked_logprobs(asks)
        for ask, output in zip(asks, outputs, strict=True):
            for choice in output.outputs if ask.params.get("temperature", 0.0) == 0.0 else ():
                expected = self.expected(ask, choice)
                require_best(choice.token_ids, expected.logprobs, expected.decided)
        return outputs

    def run_checked_logprobs(self, asks: Sequence[Ask]) -> list[RequestOutput]:
        """Reported logprobs of every choice are the oracle's, whatever restrictions chose the tokens."""
        outputs = self.run(asks)
        undecided = positions = 0
        for ask, output in zip(asks, outputs, strict=True):
            for choice in output.outputs:
                expected = self.expected(ask, choice)
                of_base = (ask.decoding or {}).get("logprobs") == "base"
                require_logprobs(choice, expected.base if of_base else expected.logprobs, expected.decided)
                positions += len(choice.token_ids)
                undecided += int((~expected.decided).sum())
        assert undecided <= 0.02 * positions, "the oracle judged too little"
        return outputs

    @contextmanager
    def forwards(self) -> Iterator[dict[str, int]]:
        """Forward passes meanwhile, of the base ("") and of each guide."""
        counts = {"": 0, **dict.fromkeys(self.model.channel.names, 0)}

        def counter(name: str) -> Any:
            def count(*_: Any) -> None:
                counts[name] += 1

            return count

        modules = {name: self.model.guide(name) if name else self.model.base for name in counts}
        handles = [module.register_forward_hook(counter(name)) for name, module in modules.items()]
        try:
            yield counts
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def preemptions(self) -> Iterator[list[str]]:
        """The requests preempted meanwhile, once for each time."""
        seen: list[str] = []
        original = self.scheduler._preempt_request

        def note(request: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(request.request_id)
            return original(request, *args, **kwargs)

        self.scheduler._preempt_request = note
        try:
            yield seen
        finally:
            del self.scheduler._preempt_request


def reported(choice: CompletionOutput, vocabulary: int) -> Tensor:
    """The reported log-probabilities `[positions, vocab]`; NaN where none was reported."""
    table = torch.full((len(choice.token_ids), vocabulary), float("nan"), dtype=torch.float64)
    for i, position in enumerate(choice.logprobs):
        for token, entry in position.items():
            assert entry.logprob == entry.logprob, "NaN was reported"
            table[i, token] = entry.logprob
    return table


def require_logprobs(choice: CompletionOutput, expected: Tensor, decided: Tensor) -> None:
    got = reported(choice, expected.shape[-1])
    known = ~got.isnan()
    assert known.sum(-1).ge(20).all()
    agreed = expected.isneginf() & (got < NEVER)
    error = torch.where(agreed, 0.0, (got - expected).abs())[known & decided[:, None]]
    assert error.max() < CLOSE, f"off by {float(error.max()):.2e} nats"


def require_best(tokens: Sequence[int], expected: Tensor, decided: Tensor) -> None:
    """Each token is the best of the expected log-probabilities, or less than CLOSE behind it."""
    chosen = expected.gather(1, torch.tensor(list(tokens))[:, None])[:, 0]
    behind = expected.max(-1).values - chosen
    assert behind[decided].max() < CLOSE, f"a token {float(behind.max()):.2e} nats behind the best"


def prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [1, *torch.randint(5, TOKENS, (length - 1,), generator=generator).tolist()]
