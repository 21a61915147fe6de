"""What one engine decodes for one request, counted for metrics and report."""

from vllm.outputs import RequestOutput

from decoders.report import Report
from server.metrics import METRICS
from server.quotas import spend
from server.speculation import Acceptance


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
            spend(self.tokens)
            self.report.add_tokens(self.engine, self.tokens)
            if self.speculative is not None and self.acceptance.choices:
                self.acceptance.settle(self.engine, self.speculative, self.tokens, self.report)
            self.tokens = 0
