"""What one prompt's decoding took: tokens and times, counted while it runs, for metrics, report and log."""

from time import perf_counter

from vllm.outputs import RequestOutput
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.metrics.stats import RequestStateStats

from server.call import Call
from server.metrics import METRICS
from server.quotas import spend
from server.speculation import Acceptance


class Tally:
    """Counts what is decoded for one prompt of a request, and books it once, when that has ended.

    Args:
        method: the sequence method's name.
        engine: the one engine that runs the request as it is; None where the method runs it.
        call: the request; its report and account are filled in.
        speculative: how the engine drafts, if it does.
        prompt_tokens: of this prompt.
        streamed: whether outputs come as tokens do, and not once, at the end.
    """

    def __init__(
        self,
        method: str,
        engine: str | None,
        call: Call,
        speculative: str | None,
        prompt_tokens: int,
        streamed: bool,
    ) -> None:
        self.method, self.engine, self.call, self.speculative = method, engine, call, speculative
        self.paced_by_output = streamed and engine is not None
        self.acceptance = Acceptance()
        self.tokens = 0
        self.states: list[RequestState] = []  # of the choices, where one engine runs the request
        self.settled = False
        self.begun = perf_counter()
        self.first: float | None = None
        self.lasts: dict[int, float] = {}  # when each choice's last tokens came
        self.gaps = METRICS.inter_token.of(method)
        call.account.prompt += prompt_tokens
        if engine is not None:
            call.report.layer("sequence")["engine"] = engine

    def pace(self, index: int) -> None:
        """Tokens of choice `index` came. Called for every token: what is slow here is paid by all."""
        now = perf_counter()
        last = self.lasts.get(index)
        if last is not None:
            self.gaps.observe(now - last)
        elif self.first is None:
            self.first = now
        self.lasts[index] = now

    def hold(self, states: list[RequestState]) -> None:
        """Keep what the engine keeps of the choices: how far those came that were never delivered."""
        self.states = states

    def add(self, output: RequestOutput) -> None:
        for choice in output.outputs:
            self.tokens += len(choice.token_ids)
            if self.paced_by_output:
                self.pace(choice.index)
            if choice.spec_decode_metrics is not None:
                self.acceptance.add(choice.spec_decode_metrics)
                choice.spec_decode_metrics = None  # vLLM would add it to every answer, asked for or not
        if output.finished:  # the report is read before the generator is closed
            self.states = []
            self._finish(output)
            self.settle()

    def _finish(self, output: RequestOutput) -> None:
        """Book the times of a prompt that was answered whole."""
        now, stats = perf_counter(), output.metrics
        self.call.account.cached += output.num_cached_tokens or 0
        first = (self.first or now) - self.begun
        if isinstance(stats, RequestStateStats) and stats.first_token_ts and stats.queued_ts:
            METRICS.engine_queue.of(self.method).observe(stats.scheduled_ts - stats.queued_ts)
            if not self.paced_by_output:  # whole answers: the engine knows when their tokens came
                first = stats.first_token_ts - stats.queued_ts
                self._pace_evenly(stats)
        METRICS.first_token.of(self.method).observe(first)
        METRICS.answer.of(self.method).observe(now - self.begun)

    def _pace_evenly(self, stats: RequestStateStats) -> None:
        """Of several choices, vLLM tells the times of the one that ended last."""
        gaps = stats.num_generation_tokens - 1
        if gaps > 0:
            self.gaps.observe((stats.last_token_ts - stats.first_token_ts) / gaps, gaps)

    def settle(self) -> None:
        """Book the tokens, also of what did not end by itself."""
        if self.settled:
            return
        self.settled = True
        made = sum(state.detokenizer.num_output_tokens() for state in self.states if state.detokenizer)
        call, tokens = self.call, max(self.tokens, made)
        call.account.completion += tokens
        for method in (call.decoding.sequence_method(), *call.decoding.engine_methods()):
            METRICS.decoded.labels(method.layer, method.method).inc(tokens)
        if self.engine is None or not tokens:
            return
        METRICS.tokens.labels(self.method, self.engine).inc(tokens)
        spend(tokens)
        call.report.add_tokens(self.engine, tokens)
        if self.speculative is not None and self.acceptance.choices:
            self.acceptance.settle(self.engine, self.speculative, tokens, call.report)
