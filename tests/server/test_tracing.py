"""Traces of requests over real engines, caught in memory."""

from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from decoders.deployment import Deployment
from decoders.request import DecodingRequest
from server.call import Call
from server.engine import DecodingEngine
from server.middleware import RequestContext
from server.requests import CALL
from server.tracing import TraceRequests, Tracing, step_of
from tests.server.test_engine import MODEL, relay

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}


class Traced:
    """An application whose one route runs a request on the engines, and the spans that came of it."""

    def __init__(self, engine: DecodingEngine) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(self.exporter)
        deployment: Deployment = engine.deployment
        self.engine = DecodingEngine(self.tracing.engines(engine.engines), deployment)
        app = Starlette(routes=[Route("/run", self.run, methods=["POST"]), Route("/health", self.run)])
        app.add_middleware(TraceRequests, tracer=self.tracing.tracer)
        app.add_middleware(RequestContext)
        self.app = app

    async def run(self, request: Request) -> JSONResponse:
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        asked = await request.json() if request.method == "POST" else {}
        params = SamplingParams(
            temperature=asked.get("temperature", 0.0),
            max_tokens=12,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        decoding = MODEL.model_validate(asked) if "sequence" in asked else DecodingRequest()
        call = request.state.call = Call(decoding, decoding.new_report())
        params.extra_args = {CALL: call}
        prompt = tokens_input(list(range(5, 25)))
        if asked.get("fails"):
            params.priority = 0
            prompt = tokens_input([10**6])
        async for output in self.engine.generate(prompt, params, "r-1"):
            assert output.request_id == "r-1"
        return JSONResponse({})

    async def spans(self, path: str = "/run", body: Any = None) -> list[ReadableSpan]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t", headers=HEADERS) as http:
            await (http.get(path) if body is None else http.post(path, json=body))
        self.tracing.provider.force_flush()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def traced(engine: DecodingEngine) -> Traced:
    return Traced(engine)


def only_root(spans: list[ReadableSpan]) -> ReadableSpan:
    (root,) = [span for span in spans if span.parent is not None and span.parent.span_id == int(PARENT, 16)]
    assert all(f"{span.context.trace_id:032x}" == TRACE for span in spans)
    others = [span for span in spans if span is not root]
    assert all(span.parent.span_id == root.context.span_id for span in others)
    assert all(root.start_time <= span.start_time <= span.end_time <= root.end_time for span in others)
    return root


async def test_a_plain_request_is_one_child_of_a_request_in_the_callers_trace(traced: Traced) -> None:
    spans = await traced.spans(body={})
    root = only_root(spans)
    assert (root.name, len(spans)) == ("POST /run", 2)
    given = dict(root.attributes)
    assert given["http.response.status_code"] == 200
    assert given["decant.request_id"] == "r-1"
    assert (given["decant.decoding"], given["decant.prompt_tokens"]) == ("plain", 20)
    assert given["decant.completion_tokens"] == 12
    (child,) = [span for span in spans if span is not root]
    assert child.name == "decode"
    assert child.attributes["decant.engine"] == "base"
    assert child.attributes["decant.completion_tokens"] == 12


async def test_each_segment_is_a_child_on_its_engine(traced: Traced) -> None:
    spans = await traced.spans(body=relay(turn=5, path=("small", "base")))
    root = only_root(spans)
    children = sorted((span for span in spans if span is not root), key=lambda span: span.start_time)
    assert [span.name for span in children] == ["segment"] * 3
    assert [span.attributes["decant.engine"] for span in children] == ["small", "base", "small"]
    assert [span.attributes["decant.completion_tokens"] for span in children] == [5, 5, 2]
    assert root.attributes["decant.completion_tokens"] == 12


async def test_what_fails_is_marked(traced: Traced) -> None:
    spans = await traced.spans(body={"fails": True})
    root = only_root(spans)
    (child,) = [span for span in spans if span is not root]
    assert child.status.status_code is StatusCode.ERROR
    assert root.status.status_code is StatusCode.ERROR


async def test_probes_leave_no_trace(traced: Traced) -> None:
    assert "/health" not in {span.name for span in await traced.spans("/health")}


@pytest.mark.parametrize(
    ("request_id", "step"),
    [
        ("cmpl-r-1-0", "decode"),
        ("0_cmpl-r-1/3", "segment"),
        ("cmpl-r-1/sample", "sample"),
        ("cmpl-r-1/score-2/14", "score"),
    ],
)
def test_a_step_is_named_by_its_id(request_id: str, step: str) -> None:
    assert step_of(request_id) == step
