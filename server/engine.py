"""DecodingEngine: an EngineClient over named engines that hands each request to its sequence method.

Plain requests go straight to one AsyncLLM. Every other method yields chunks of tokens, and vLLM's own
OutputProcessor makes of them what it makes of an engine's: text, stop strings across chunks, logprobs, n > 1,
deltas.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from vllm.engine.protocol import EngineClient
from vllm.exceptions import QueueOverflowError, VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest

from decoders.cache.settings import REPORT as CACHE_REPORT
from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.logits.wire import REPORT
from decoders.method import ChoosingMethod, Chunk, Circumstances, Job, SequenceMethod
from server.acceptance import TAKEN
from server.call import Call
from server.chunks import core_output
from server.compression import Measured, begin
from server.group import EngineGroup
from server.metrics import METRICS, count_candidates
from server.quotas import CURRENT, RateLimited, spend
from server.requests import CALL
from server.tally import Tally

logger = logging.getLogger("decant.server")
T = TypeVar("T")


def _require_text(output: RequestOutput, compiles: bool) -> None:
    """A grammar that accepts no text compiles, and vLLM then ends the request with an internal error.

    It ends one whose grammar does not compile in the same way; `compiles`: whether it is known that it does.
    """
    if any(choice.finish_reason == "error" for choice in output.outputs):
        logger.warning("request %s: nothing was left by its grammar", output.request_id)
        unless = "" if compiles else ", or the engine cannot compile it"
        raise VLLMValidationError(
            f"The grammar or schema accepts no text{unless}.", parameter="structured_outputs"
        )


class DecodingEngine(EngineGroup):
    """The engines of one served model, each request run by its sequence method.

    Args:
        engines: AsyncLLM engines by name; all share one tokenizer.
        deployment: what they are, and which is the default.
        prompt_tokens: the longest prompt accepted, in tokens; None leaves it to the engine.
        restarts: whether a dead engine is started again, so that the others go on meanwhile.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineClient],
        deployment: Deployment,
        prompt_tokens: int | None = None,
        restarts: bool = False,
    ) -> None:
        super().__init__(engines, deployment, restarts)
        self.prompt_tokens = prompt_tokens
        self.active: Counter[str] = Counter()  # two requests may carry the same id
        self.closed = False
        self._aside: set[asyncio.Task[Any]] = set()

    # ---- generation ------------------------------------------------------------------------------------

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs of one prompt, as AsyncLLM.generate yields them; `n` choices share it.

        vLLM's handlers call it for all prompts of a request before any is run: the first one then pays for
        all, so that a request its key cannot pay for leaves nothing behind.
        """
        call = self._take_call(sampling_params)
        length = len(prompt.get("prompt_token_ids") or ()) if isinstance(prompt, dict) else 0
        call.unbooked += length
        return self._generate(call, prompt, length, sampling_params, request_id, options)

    async def _generate(
        self,
        call: Call,
        prompt: Any,
        length: int,
        sampling_params: SamplingParams,
        request_id: str,
        options: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        self.check_prompt_length(length)
        if call.guard is not None and sampling_params.structured_outputs is not None:
            await call.guard.check(sampling_params.structured_outputs)
        # From here to the count of active requests nothing is awaited: `abort_all` finds this one there, or
        # it finds the server closed here.
        if self.closed:
            raise QueueOverflowError()
        method = call.decoding.sequence_method().resolve(
            Circumstances(self.deployment, self.active.total(), length, sampling_params), call.report
        )
        name = method.direct(self.deployment)
        names = method.engines(self.deployment)
        self.require(names, call)
        # One engine samples all candidates of a method that chooses.
        home = names[0] if isinstance(method, ChoosingMethod) else name
        prompt, reported = self._prepare(call, prompt, sampling_params, name is not None)
        self.check_priority(options.get("priority", 0), home or self.deployment.default)
        self._check_speculation(sampling_params, home)
        streamed = sampling_params.output_kind is RequestOutputKind.DELTA
        tally = Tally(method.method, name, call, self._speculative(name), length, streamed)
        outcome = None
        if reported is not None and name is not None:
            layer = call.report.layer("logits")
            outcome = call.outcomes.begin(sampling_params.output_kind, self.engines[name], reported, layer)
        measured = self._compression(call, length, home, sampling_params)
        self.book_prompts(call)
        source: AsyncGenerator[RequestOutput, None]
        if name is not None:
            source = self.engines[name].generate(prompt, sampling_params, request_id, **options)
        else:
            source = self._run(method, call, prompt, sampling_params, request_id, options, tally)
        TAKEN.set(tally.hold if name is not None else None)
        self.active[request_id] += 1
        constrained = sampling_params.structured_outputs is not None
        try:
            # One generator deep: every layer here costs each token of each stream.
            async with aclosing(source) as outputs:
                async for output in outputs:
                    tally.add(output)
                    if output.finished and constrained:
                        _require_text(output, call.guard is not None and call.guard.tries)
                    if outcome is not None:
                        await outcome.add(output)
                    if measured is not None and output.finished:
                        await measured.settle()
                    yield output
        except EngineDeadError:
            self.note_loss(names, call)
            raise
        finally:
            tally.settle()
            self.active -= Counter([request_id])

    def require(self, names: Sequence[str], call: Call) -> None:
        """Raise EngineDeadError, noted in the call, if one of these engines takes no requests now."""
        if (lost := self.lost(names)) is not None:
            call.lost = lost
            raise EngineDeadError()

    def note_loss(self, names: Sequence[str], call: Call) -> None:
        """Note in the call which of its engines it was lost with."""
        call.lost = call.lost or self.lost(names) or names[0]

    async def aside(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work on the engines that gives no tokens; `abort_all` ends it, with the error of a closed
        server.
        """
        if self.closed:
            work.close()
            raise QueueOverflowError()
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        try:
            await asyncio.wait((task,))
            if task.cancelled():
                raise QueueOverflowError()
            return task.result()
        finally:
            self._aside.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _take_call(self, params: SamplingParams) -> Call:
        extra = dict(params.extra_args or {})
        call = extra.pop(CALL, None)
        params.extra_args = extra or None
        return call if isinstance(call, Call) else Call.plain()

    def _prepare(
        self, call: Call, prompt: Any, params: SamplingParams, direct: bool
    ) -> tuple[Any, str | None]:
        """Hand the engine's halves of the methods their arguments.

        Returns the prompt, salted where cached blocks must not be shared with other requests, and the key
        under which the worker keeps what it did for the report of a request that one engine runs directly.
        """
        methods = call.decoding.engine_methods()
        if not methods:
            return prompt, None
        extra = dict(params.extra_args or {})
        for method in methods:
            extra |= method.engine_arguments()
        reported = direct and call.decoding.report and call.decoding.logits is not None
        key = uuid4().hex if reported else None
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
        self, call: Call, length: int, home: str | None, params: SamplingParams
    ) -> Measured | None:
        """Report what the cache layer will do, and what to ask the engine for once it is done."""
        method = call.decoding.cache
        if method is None or home is None:  # no cache method goes with one that runs on several engines
            return None
        engine, layer = self.engines[home], call.report.layer("cache")
        begin(method, layer, length, engine)
        key = (params.extra_args or {}).get(CACHE_REPORT)
        return Measured(engine, key, layer) if key is not None else None

    def check_prompt_length(self, length: int) -> None:
        """Raise VLLMValidationError for a prompt of more tokens than are allowed."""
        if self.prompt_tokens is not None and length > self.prompt_tokens:
            raise VLLMValidationError(
                f"The prompt has {length} tokens; at most {self.prompt_tokens} are allowed.",
                parameter="prompt",
            )

    def book_prompts(self, call: Call) -> None:
        """Book the prompts on their API key; that of a beam search once, though it is sent for each token."""
        tokens, call.unbooked = call.unbooked, 0
        bill = CURRENT.get()
        if bill is None:
            return
        if bill.refusal is not None:  # of another prompt of this request, which came first
            raise RateLimited(bill.refusal)
        if tokens and not (call.is_plain and bill.prompted):
            bill.admit_prompt(tokens)

    def check_priority(self, priority: int, name: str) -> None:
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
        call: Call,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        options: dict[str, Any],
        tally: Tally,
    ) -> AsyncGenerator[RequestOutput, None]:
        report = call.report
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
        jobs: list[Job] = []
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
                    phrasing=call.phrasing,
                )
                jobs.append(job)
            tasks += self._start(method, jobs, request.request_id, queue, tally)
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

    def _start(
        self, method: SequenceMethod, jobs: list[Job], id: str, queue: RequestOutputCollector, tally: Tally
    ) -> list[asyncio.Task[None]]:
        """The tasks that feed all choices: one a choice, or a single one of a method that chooses."""
        if isinstance(method, ChoosingMethod):
            whole = replace(jobs[0], id=id, choices=len(jobs))
            return [asyncio.create_task(self._choose(method, whole, [job.id for job in jobs], queue))]
        return [asyncio.create_task(self._pump(method, job, queue, tally)) for job in jobs]

    async def _pump(
        self, method: SequenceMethod, job: Job, queue: RequestOutputCollector, tally: Tally
    ) -> None:
        """Feed one choice's chunks to the output processor until the choice has ended."""
        try:
            async with aclosing(method.generate(job, self.engines)) as chunks:
                async for chunk in chunks:
                    METRICS.tokens.labels(method.method, chunk.engine).inc(len(chunk.token_ids))
                    spend(len(chunk.token_ids))
                    tally.pace(job.index)
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

    async def _choose(
        self, method: ChoosingMethod, job: Job, children: list[str], queue: RequestOutputCollector
    ) -> None:
        """Feed the answers that the method chooses to the output processor, one a choice."""
        try:
            chosen = await method.choose(job, self.engines)
            for child, chunk in zip(children, chosen, strict=True):
                ends_in_text = isinstance(chunk.stop_reason, str)
                last = Chunk([], chunk.engine, None, chunk.finish_reason, chunk.stop_reason)
                if ends_in_text:  # the processor finds the stop string itself, and cuts the text there
                    chunk.finish_reason = chunk.stop_reason = None
                done = self.output_processor.process_outputs([core_output(child, chunk)])
                if ends_in_text and not done.reqs_to_abort:
                    self.output_processor.process_outputs([core_output(child, last)])
        except Refusal as refusal:
            queue.put(VLLMValidationError(refusal.message, parameter=refusal.param))
        except Exception as error:
            queue.put(error)
        finally:
            made = job.report.layer("sequence").get("candidates", ())
            count_candidates(method.method, job.report, len(made))
            spend(job.report.spent.total())

    async def abort_all(self) -> int:
        """Abort every request and take no more; the number there was."""
        self.closed = True
        count = self.active.total() + len(self._aside)
        for task in self._aside:
            task.cancel()
        await self.abort(list(self.active))
        return count
