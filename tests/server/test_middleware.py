import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError
from server.metrics import METRICS
from server.middleware import BodyLimit, RequestContext


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())} {request.headers['x-request-id']}")


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("MARKER")


async def stream(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def api_error(request: Request, error: Exception) -> PlainTextResponse:
    assert isinstance(error, ApiError)
    return error.response()  # type: ignore[return-value]


ROUTES = [Route("/echo", echo, methods=["POST"]), Route("/stream", stream)]


def client(limit: int = 100) -> httpx.AsyncClient:
    app: ASGIApp = Starlette(routes=ROUTES, exception_handlers={ApiError: api_error})
    app = RequestContext(BodyLimit(app, limit))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def test_a_body_at_the_limit_passes_and_one_over_is_413() -> None:
    http = client(100)
    assert (await http.post("/echo", content=b"x" * 100)).text.startswith("100 ")
    response = await http.post("/echo", content=b"x" * 101)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "payload_too_large")


async def test_an_undeclared_body_over_the_limit_is_413() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10

    response = await client(100).post("/echo", content=chunks())
    assert response.status_code == 413


@pytest.mark.parametrize("length", ["-1", "x", "1e3"])
async def test_a_senseless_length_is_refused(length: str) -> None:
    assert (await client().post("/echo", content=b"x", headers={"content-length": length})).status_code == 413


async def test_a_well_formed_request_id_is_kept() -> None:
    response = await client().post("/echo", headers={"X-Request-Id": "job-7.a:b_c"})
    assert response.headers["x-request-id"] == "job-7.a:b_c"
    assert response.text == "0 job-7.a:b_c"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a{}"])
async def test_any_other_request_id_is_replaced(given: str) -> None:
    response = await client().post("/echo", headers={"X-Request-Id": given})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


async def test_a_crash_is_a_500_that_says_nothing_of_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("decant").propagate = True
    http = httpx.AsyncClient(transport=httpx.ASGITransport(RequestContext(fail)), base_url="http://server")
    response = await http.get("/")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "MARKER" not in response.text
    assert "MARKER" in caplog.text


async def test_requests_are_counted_by_route_and_status() -> None:
    before = METRICS.requests.labels("/echo", "POST", "200")._value.get()
    unmatched = METRICS.requests.labels("unmatched", "GET", "404")._value.get()
    http = client()
    await http.post("/echo")
    await http.get("/no/such/route")
    assert METRICS.requests.labels("/echo", "POST", "200")._value.get() == before + 1
    assert METRICS.requests.labels("unmatched", "GET", "404")._value.get() == unmatched + 1


async def test_the_first_event_of_a_stream_is_timed() -> None:
    def count() -> float:
        samples = METRICS.first.collect()[0].samples
        return sum(s.value for s in samples if s.name.endswith("_count") and s.labels["route"] == "/stream")

    before = count()
    assert (await client().get("/stream")).text == "data: 1\n\n"
    assert count() == before + 1
