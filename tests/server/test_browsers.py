"""What browsers are told: which origins may call, and what a page may do."""

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from server.app import build_app
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.html import page
from server.metrics import EngineMetrics
from server.middleware import RequestContext

ORIGIN = "https://chat.example.org"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


def client(app: FastAPI | RequestContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=60)


def served(engine: DecodingEngine, *origins: str) -> httpx.AsyncClient:
    settings = ServeSettings(model=None, api_keys=["k"], cors_origins=list(origins))
    return client(build_app(engine, settings, EngineMetrics()))


def allowed(response: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in response.headers.items() if k.startswith("access-control-")}


async def test_no_origin_is_allowed_by_default(engine: DecodingEngine) -> None:
    http = served(engine)
    preflight = await http.options("/v1/chat/completions", headers=PREFLIGHT)
    assert (preflight.status_code, allowed(preflight)) == (401, {})
    got = await http.get("/v1/models", headers={"Origin": ORIGIN, "Authorization": "Bearer k"})
    assert (got.status_code, allowed(got)) == (200, {})


async def test_an_allowed_origin_asks_first_without_a_key_and_then_needs_one(engine: DecodingEngine) -> None:
    http = served(engine, ORIGIN)
    preflight = await http.options("/v1/chat/completions", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in preflight.headers
    refused = await http.get("/v1/models", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # else the page could not read why
    got = await http.get("/v1/models", headers={"Origin": ORIGIN, "Authorization": "Bearer k"})
    assert got.status_code == 200
    assert "x-ratelimit-remaining-tokens" in got.headers["access-control-expose-headers"]


HOSTS = ["localhost", "localhost:8000", "LOCALHOST.", "a.localhost:1", "127.0.0.1:8000", "[::1]:8000"]
STRANGERS = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"]
STRANGERS += ["[::1].evil", ""]


@pytest.mark.parametrize("host", HOSTS + STRANGERS)
async def test_a_server_without_keys_answers_under_its_own_names_only(
    engine: DecodingEngine, host: str
) -> None:
    """A page whose name was made to resolve to this machine is of the same origin (DNS rebinding)."""
    for listed in ([], [host.partition(":")[0]] if host.startswith("evil") else []):
        settings = ServeSettings(model=None, allowed_hosts=listed)
        http = client(build_app(engine, settings, EngineMetrics()))
        body = {"model": "demo", "prompt": "a", "max_tokens": 1}
        headers = {"Host": host, "Origin": f"http://{host}"}
        for answer in (
            await http.get("/v1/models", headers=headers),
            await http.post("/v1/completions", headers=headers, json=body),
        ):
            assert answer.status_code == (200 if host in HOSTS or listed else 403), answer.text
            if answer.status_code == 403:
                assert answer.json()["error"]["code"] == "unknown_host"
                assert "evil" not in answer.text


async def test_two_hosts_are_none(engine: DecodingEngine) -> None:
    http = client(build_app(engine, ServeSettings(model=None), EngineMetrics()))
    answer = await http.get("/v1/models", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["https://chat.example.org.evil", "http://chat.example.org", "https://chat.example.org:444", "null"],
)
async def test_any_other_origin_is_not(engine: DecodingEngine, origin: str) -> None:
    http = served(engine, ORIGIN)
    preflight = await http.options("/v1/models", headers={**PREFLIGHT, "Origin": origin})
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    got = await http.get("/v1/models", headers={"Origin": origin, "Authorization": "Bearer k"})
    assert "access-control-allow-origin" not in got.headers


async def test_pages_are_kept_to_themselves_and_other_answers_to_their_type() -> None:
    async def html(request: object) -> object:
        return page("<p>hello</p>")

    async def text(request: object) -> object:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("<p>hello</p>")

    http = client(RequestContext(Starlette(routes=[Route("/html", html), Route("/text", text)])))
    headers = (await http.get("/html")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]  # no host but this one
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    plain = (await http.get("/text")).headers
    assert plain["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in plain
