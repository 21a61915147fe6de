"""DecodingEngine: an EngineClient over named engines that hands each request to its sequence method.

Plain requests go straight to one AsyncLLM. Every other method yields chunks of tokens, and vLLM's own
OutputProcessor makes of them what it makes of an engine's: text, stop strings across chunks, logprobs, n > 1,
deltas.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from copy import copy
from typing import Any
from uuid import uuid4

from vllm.engine.protocol import EngineClient
from vllm.exceptions import QueueOverflowError, VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest

from decoders.cache.settings import REPORT as CACHE_REPORT
from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.logits.wire import REPORT
from decoders.method import Chunk, Circumstances, Job, SequenceMethod
from decoders.report import Report
from server.call import Call
from server.chunks import core_output
from server.compression import Measured, begin
from server.metrics import METRICS
from server.requests import CALL
from server.speculation import Acceptance

logger = logging.getLogger("decant.server")


def _require_text(output: RequestOutput) -> None:
    """A grammar that accepts no text compiles, and vLLM then ends the request with an internal error."""
    if any(choice.finish_reason == "error" for choice in output.outputs):
        logger.warning("request %s: nothing was left by its grammar", output.request_id)
        raise VLLMValidationError("The grammar or schema accepts no text.", parameter="structured_outputs")


class Tally:
    """Counts the tokens one engine decodes for one request, and books them once, when it has ended."""

    def __init__(self, method: str, engine: str | None, report: Report, speculative: str | None) -> None:
        self.method = method
        self.engine = engine
        self.speculative = speculative  # how the engine drafts
        self.acceptance = Acceptance()
        self.report = report
        self.tokens = 0
        if engine is not None:
            report.layer("sequence")["engine"] = engine

    def add(self, output: RequestOutput) -> None:
        for choice in output.outputs:
            self.tokens += len(choice.token_ids)
            if choice.spec_decode_metrics is not None:
                self.acceptance.add(choice.spec_decode_metrics)
                choice.spec_decode_metrics = None  # vLLM would add it to every answer, asked for or not
        if output.finished:  # the report is read before the generator is closed
            self.settle()

    def settle(self) -> None:
        if self.engine is not None and self.tokens:
            METRICS.tokens.labels(self.method, self.engine).inc(self.tokens)
            self.report.add_tokens(self.engine, self.tokens)
            if self.speculative is not None and self.acceptance.choices:
                self.acceptance.settle(self.engine, self.speculative, self.tokens, self.report)
            self.tokens = 0


class DecodingEngine(EngineClient):
    """The engines of one served model behind vLLM's engine interface.

    Args:
        engines: AsyncLLM engines by name; all share one tokenizer.
        deployment: what they are, and which is the default.
        prompt_tokens: the longest prompt accepted, in tokens; None leaves it to the engine.
    """

    def __init__(
        self, engines: Mapping[str, EngineClient], deployment: Deployment, prompt_tokens: int | None = None
    ) -> None:
        self.engines = dict(engines)
        self.deployment = deployment
        self.prompt_tokens = prompt_tokens
        self.base = self.engines[deployment.default]
        self.vllm_config = self.base.vllm_config
        self.model_config = self.base.model_config
        self.renderer = self.base.renderer
        self.input_processor = self.base.input_processor
        self.output_processor = OutputProcessor(self.renderer.tokenizer, log_stats=False)
        self.active: Counter[str] = Counter()  # two requests may carry the same id
        self.closed = False

    # ---- generation ------------------------------------------------------------------------------------

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs of one prompt, as AsyncLLM.generate yields them; `n` choices share it."""
        if self.closed:
            raise QueueOverflowError()
        call = self._take_call(sampling_params)
        self._check_prompt(prompt)
        length = len(prompt.get("prompt_token_ids") or ()) if isinstance(prompt, dict) else 0
        method = call.decoding.sequence_method().resolve(
            Circumstances(self.deployment, self.active.total(), length, sampling_params), call.report
        )
        prompt, reported = self._prepare(call, prompt, sampling_params)
        name = method.direct(self.deployment)
        self._check_priority(options.get("priority", 0), name or self.deployment.default)
        self._check_speculation(sampling_params, name)
        tally = Tally(method.method, name, call.report, self._speculative(name))
        outcome = None
        if reported is not None and name is not None:
            layer = call.report.layer("logits")
            outcome = call.outcomes.begin(sampling_params.output_kind, self.engines[name], reported, layer)
        measured = self._compression(call, length, name, sampling_params)
        source: AsyncGenerator[RequestOutput, None]
        if name is not None:
            source = self.engines[name].generate(prompt, sampling_params, request_id, **options)
        else:
            source = self._run(method, call.report, prompt, sampling_params, request_id, options)
        self.active[request_id] += 1
        constrained = sampling_params.structured_outputs is not None
        try:
            # One generator deep: every layer here costs each token of each stream.
            async with aclosing(source) as outputs:
                async for output in outputs:
                    if name is not None:
                        tally.add(output)
                    if output.finished and constrained:
                        _require_text(output)
                    if outcome is not None:
                        await outcome.add(output)
                    if measured is not None and output.finished:
                        await measured.settle()
                    yield output
        finally:
            tally.settle()
            self.active -= Counter([request_id])

    def _take_call(self, params: SamplingParams) -> Call:
        extra = dict(params.extra_args or {})
        call = extra.pop(CALL, None)
        params.extra_args = extra or None
        return call if isinstance(call, Call) else Call.plain()

    def _prepare(self, call: Call, prompt: Any, params: SamplingParams) -> tuple[Any, str | None]:
        """Hand the engine's halves of the methods their arguments.

        Returns the prompt, salted where cached blocks must not be shared with other requests, and the key
        under which the worker keeps what it did for the report.
        """
        methods = call.decoding.engine_methods()
        if not methods:
            return prompt, None
        extra = dict(params.extra_args or {})
        for method in methods:
            extra |= method.engine_arguments()
        key = uuid4().hex if call.decoding.report and call.decoding.logits is not None else None
        if key is not None:
            extra[REPORT] = key
        if call.decoding.report and call.decoding.cache is not None:
            extra[CACHE_REPORT] = uuid4().hex
        params.extra_args = extra
        if not isinstance(prompt, dict):
            raise VLLMValidationError("Methods of the logits and cache layers take prepared prompts only.")
        salt = call.decoding.cache_salt(prompt.get("cache_salt"))
        return ({**prompt, "cache_salt": salt} if salt is not None else prompt), key

    def _compression(
        self, call: Call, length: int, name: str | None, params: SamplingParams
    ) -> Measured | None:
        """Report what the cache layer will do, and what to ask the engine for once it is done."""
        method = call.decoding.cache
        if method is None:
            return None
        engine = self.engines[name or self.deployment.default]
        layer = call.report.layer("cache")
        begin(method, layer, length, engine)
        key = (params.extra_args or {}).get(CACHE_REPORT)
        return Measured(engine, key, layer) if key is not None and name is not None else None

    def _check_prompt(self, prompt: Any) -> None:
        if self.prompt_tokens is None or not isinstance(prompt, dict):
            return
        length = len(prompt.get("prompt_token_ids") or ())
        if length > self.prompt_tokens:
            raise VLLMValidationError(
                f"The prompt has {length} tokens; at most {self.prompt_tokens} are allowed.",
                parameter="prompt",
            )

    def _check_priority(self, priority: int, name: str) -> None:
        if priority and self.engines[name].vllm_config.scheduler_config.policy != "priority":
            raise VLLMValidationError(
                "priority must be 0: this engine schedules first come, first served.",
                parameter="priority",
            )

    def _speculative(self, name: str | None) -> str | None:
        return self.deployment.engines[name].speculative if name is not None else None

    def _check_speculation(self, params: SamplingParams, name: str | None) -> None:
        """What vLLM refuses beside speculation, by the field's name."""
        if self._speculative(name) is None:
            return
        for field, harmless in (("min_p", 0.0), ("logit_bias", None)):
            if getattr(params, field) not in (harmless, {}):
                raise VLLMValidationError(
                    f"{field} cannot be combined with speculative decoding, which engine '{name}' does.",
                    parameter=field,
                )

    async def _run(
        self,
        method: SequenceMethod,
        report: Report,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        options: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        if not isinstance(prompt, dict) or prompt.get("type") != "token":
            raise VLLMValidationError(f"Method '{method.method}' takes text or token prompts only.")
        if options.get("lora_request") is not None:
            raise VLLMValidationError(f"Method '{method.method}' cannot be combined with LoRA adapters.")
        priority = options.get("priority", 0)
        request = self.input_processor.process_inputs(
            request_id, prompt, params, supported_tasks=await self.get_supported_tasks(), priority=priority
        )
        self.input_processor.assign_request_id(request)
        params = request.params
        queue = RequestOutputCollector(params.output_kind, request.request_id)
        parent = ParentRequest(request) if params.n > 1 else None
        tasks: list[asyncio.Task[None]] = []
        try:
            for index in range(params.n):
                child = copy(request)
                if parent is not None:
                    child.request_id, child.sampling_params = parent.get_child_info(index)
                self.output_processor.add_request(child, prompt.get("prompt"), parent, index, queue)
                job = Job(
                    id=child.request_id,
                    prompt_token_ids=list(request.prompt_token_ids),
                    params=child.sampling_params,
                    report=report,
                    deployment=self.deployment,
                    index=index,
                    cache_salt=prompt.get("cache_salt"),
                    priority=priority,
                )
                tasks.append(asyncio.create_task(self._pump(method, job, queue)))
            finished = False
            while not finished:
                output = queue.get_nowait() or await queue.get()
                finished = output.finished
                yield output
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            layer = report.layer("sequence")
            METRICS.switches.labels(method.method).inc(layer.get("switches", 0))
            METRICS.recomputed.labels(method.method).inc(layer.get("recomputed_tokens", 0))
            self.output_processor.abort_requests([request.request_id], internal=True)
            queue.close()

    async def _pump(self, method: SequenceMethod, job: Job, queue: RequestOutputCollector) -> None:
        """Feed one choice's chunks to the output processor until the choice has ended."""
        try:
            async with aclosing(method.generate(job, self.engines)) as chunks:
                async for chunk in chunks:
                    METRICS.tokens.labels(method.method, chunk.engine).inc(len(chunk.token_ids))
                    job.report.add_tokens(chunk.engine, len(chunk.token_ids))
                    done = self.output_processor.process_outputs([core_output(job.id, chunk)])
                    if done.reqs_to_abort:  # a stop string matched
                        return
                    if chunk.finish_reason is not None:
                        return
            # The method ended without saying so: say it for it, or the request would wait for ever.
            last = Chunk([], engine="", finish_reason=str(FinishReason.STOP))
            self.output_processor.process_outputs([core_output(job.id, last)])
        except Refusal as refusal:
            queue.put(VLLMValidationError(refusal.message, parameter=refusal.param))
        except Exception as error:
            queue.put(error)

    # ---- state and shutdown ----------------------------------------------------------------------------

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        self.base.check_admission(n, request_id)

    @property
    def is_running(self) -> bool:
        return all(engine.is_running for engine in self.engines.values())

    @property
    def is_stopped(self) -> bool:
        return any(engine.is_stopped for engine in self.engines.values())

    @property
    def errored(self) -> bool:
        return any(engine.errored for engine in self.engines.values())

    @property
    def dead_error(self) -> BaseException:
        dead = (engine.dead_error for engine in self.engines.values() if engine.errored)
        return next(dead, self.base.dead_error)

    def dead_engines(self) -> list[str]:
        return [name for name, engine in self.engines.items() if engine.errored]

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests; their outputs so far are delivered with finish_reason 'abort'."""
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        self.output_processor.abort_requests(ids, internal=False)
        for engine in self.engines.values():
            with suppress(Exception):  # a dead engine has nothing left to abort
                await engine.abort(ids)

    async def abort_all(self) -> int:
        """Abort every request and take no more; the number there was."""
        self.closed = True
        count = self.active.total()
        await self.abort(list(self.active))
        return count

    def shutdown(self, timeout: float | None = None) -> None:
        for engine in self.engines.values():
            engine.shutdown(timeout=timeout)

    async def get_supported_tasks(self) -> Any:
        return await self.base.get_supported_tasks()

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self.base.encode(*args, **kwargs)


def _fan_out(name: str) -> Any:
    async def call(self: DecodingEngine, *args: Any, **kwargs: Any) -> Any:
        results = [await getattr(engine, name)(*args, **kwargs) for engine in self.engines.values()]
        return all(results) if isinstance(results[0], bool) else results[0]

    call.__name__ = name
    return call


# The control plane (sleep, profiling, caches, adapters, ...) goes to every engine.
for _name in sorted(DecodingEngine.__abstractmethods__ | {"collective_rpc"}):
    setattr(DecodingEngine, _name, _fan_out(_name))
DecodingEngine.__abstractmethods__ = frozenset()
