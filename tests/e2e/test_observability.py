"""What a request leaves in metrics by method, in the access log, and in traces sent to a collector."""

import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.e2e.client import TEXT, Http, wait_for
from tests.e2e.process import Decant, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TOKENS = 20
EAD = {"sequence": {"method": "ead", "threshold": 1.0, "window": 2, "dwell": 1}, "report": True}
CANDIDATES = {"sequence": {"method": "equilibrium", "candidates": 4}, "report": True}
GUIDED = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}}
BODY = {**TEXT, "ignore_eos": True, "max_tokens": TOKENS, "temperature": 1}
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Braland?"}]}


class Collector:
    """A socket that takes OTLP over HTTP, and the spans that came."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.paths: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.paths.add(self.path)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        outer.spans += scope.spans
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Decant]:
    log: Path = tmp_path_factory.mktemp("observed") / "log"
    with serving(log, "--otlp-endpoint", collector.url, "--log-format", "json") as server:
        yield server


def ask(server: Decant, id: str, body: dict[str, Any], path: str = "/v1/completions") -> httpx.Response:
    headers = {"X-Request-Id": id, "traceparent": f"00-{TRACE}-{PARENT}-01"}
    response = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    return response


def logged(server: Decant, id: str) -> dict[str, Any]:
    """The access line of a request, which follows its answer."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        lines = [json.loads(line) for line in server.output().splitlines() if f'"{id}"' in line]
        found[:] = [line for line in lines if line["logger"] == "decant.access"]
        return bool(found)

    wait_for(is_there, 10, "the line is written")
    return found[0]


def spans(collector: Collector, id: str) -> tuple[Any, list[Any]]:
    """A request's span and its children, in the order they began."""

    def root() -> Any:
        return next((one for one in collector.spans if attributes(one).get("decant.request_id") == id), None)

    wait_for(lambda: root() is not None, 15, "the spans have been sent")
    children = [one for one in collector.spans if one.parent_span_id == root().span_id]
    return root(), sorted(children, key=lambda one: one.start_time_unix_nano)


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_plain_request(observed: Decant, collector: Collector) -> None:
    usage = ask(observed, "plain-1", BODY).json()["usage"]
    line = logged(observed, "plain-1")
    assert line["decoding"] == "plain"
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], TOKENS)
    assert TOKENS < line["computed_tokens"] <= usage["prompt_tokens"] + TOKENS
    root, children = spans(collector, "plain-1")
    assert collector.paths == {"/v1/traces"}
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.name == "POST /v1/completions"
    assert attributes(root)["decant.completion_tokens"] == TOKENS
    assert [one.name for one in children] == ["decode"]
    assert attributes(children[0])["decant.engine"] == "base"


def test_segments_of_an_adaptive_request(observed: Decant, collector: Collector) -> None:
    answer = ask(observed, "ead-1", {**BODY, "decoding": EAD}).json()
    done = answer["decoding"]["sequence"]
    line = logged(observed, "ead-1")
    assert line["decoding"] == "ead"
    assert line["completion_tokens"] == TOKENS
    assert line["computed_tokens"] >= TOKENS + done["recomputed_tokens"]
    _, children = spans(collector, "ead-1")
    assert [one.name for one in children] == ["segment"] * (done["switches"] + 1)
    engines = [attributes(one)["decant.engine"] for one in children]
    assert all(first != second for first, second in pairwise(engines))
    assert engines[0] == "small"


def test_steps_of_a_choice_among_candidates(observed: Decant, collector: Collector) -> None:
    body = {"model": "demo", **QUESTION, "temperature": 1, "max_tokens": 12, "decoding": CANDIDATES}
    usage = ask(observed, "choice-1", body, "/v1/chat/completions").json()["usage"]
    line = logged(observed, "choice-1")
    assert line["decoding"] == "equilibrium"
    spent = usage["completion_tokens"] + usage["scoring_tokens"]
    assert spent <= line["computed_tokens"] <= spent + usage["prompt_tokens"]
    assert line["completion_tokens"] <= 12
    names = [one.name for one in spans(collector, "choice-1")[1]]
    assert names[0] == "sample"
    assert set(names[1:]) == {"score"}


def test_layers_are_named_together(observed: Decant) -> None:
    ask(observed, "guided-1", {**BODY, "decoding": GUIDED})
    assert logged(observed, "guided-1")["decoding"] == "plain+genarm"


def test_what_is_not_decoded_has_no_such_fields(observed: Decant) -> None:
    httpx.get(f"{observed.url}/v1/models", headers={"X-Request-Id": "models-1"})
    assert not {"decoding", "prompt_tokens"} & logged(observed, "models-1").keys()


def counts(http: Http, method: str) -> dict[str, float]:
    names = ("method_first_token_seconds", "inter_token_seconds", "answer_seconds", "engine_queue_seconds")
    found = {name: http.metric(f"decant_{name}_count", method=method) for name in names}
    for kind in ("requests", "tokens"):
        found[kind] = http.metric(f"decant_decoding_{kind}_total", layer="sequence", method=method)
    return found


@pytest.mark.parametrize("streamed", [False, True])
def test_times_and_tokens_are_counted_by_method(observed: Decant, streamed: bool) -> None:
    with httpx.Client(base_url=observed.url, timeout=120) as session:
        http = Http(session)
        for method, body in (("plain", BODY), ("ead", {**BODY, "decoding": EAD})):
            before = counts(http, method)
            if streamed:
                http.stream("text", body)
            else:
                http.post_ok("text", body)
            after = counts(http, method)
            moved = {name: after[name] - before[name] for name in after}
            gaps = moved.pop("inter_token_seconds")
            assert moved == {
                "method_first_token_seconds": 1,
                "answer_seconds": 1,
                "engine_queue_seconds": method == "plain",
                "requests": 1,
                "tokens": TOKENS,
            }
            # Tokens that wait for each other come together: no more gaps than tokens.
            assert gaps == TOKENS - 1 if not streamed and method == "plain" else 0 < gaps < TOKENS
        assert http.metric("decant_decoding_tokens_total", layer="logits", method="genarm") >= TOKENS
        between = http.metric("decant_inter_token_seconds_sum", method="plain")
        assert 0 < between < http.metric("decant_answer_seconds_sum", method="plain")


def test_probes_answer_to_head(observed: Decant) -> None:
    for path in ("/health", "/ready"):
        response = httpx.head(f"{observed.url}{path}")
        assert (response.status_code, response.content) == (200, b"")
    assert httpx.get(f"{observed.url}/openapi.json").json()["paths"]["/health"].keys() == {"get"}
