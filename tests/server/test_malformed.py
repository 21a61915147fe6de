"""Whatever a body holds, an error is small, names a field, and repeats no value of it."""

import functools
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine import DecodingEngine
from server.requests import ChatRequest, RankRequest, TextRequest
from tests.server.http import Service

MARK = "ZQXvkwjhtbm"
MARKED = st.text(max_size=12).map(lambda more: MARK + more)
NAME = "vkwjhtbm"  # of a field: an error says which one is not known
SCALARS = (
    MARKED
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, 1, -1, 2**31, 2**32, 1.5, -0.0, 1e308])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([NAME, "type"]), inner, max_size=4)
    ),
    max_leaves=12,
)
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "demo",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
    },
    "/v1/completions": {"model": "demo", "prompt": "hi", "max_tokens": 1},
    "/v1/rank": {"model": "demo", "prompt": "hi", "candidates": ["a", "b"]},
    "/tokenize": {"model": "demo", "prompt": "hi"},
    "/detokenize": {"model": "demo", "tokens": [1]},
}
FIELDS = sorted(
    {*ChatRequest.model_fields, *TextRequest.model_fields, *RankRequest.model_fields, "tokens", NAME}
)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3)
RELAXED = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("path", GOOD)
@RELAXED
@given(CHANGES)
async def test_a_body_with_any_values_in_it(
    engine: DecodingEngine, path: str, change: dict[str, Any]
) -> None:
    check(await send(engine, path, json.dumps({**GOOD[path], **change}).encode()))


@pytest.mark.parametrize("path", GOOD)
@RELAXED
@given(st.binary(max_size=64), st.integers(0, 200))
async def test_a_body_that_is_cut_and_garbled(
    engine: DecodingEngine, path: str, noise: bytes, place: int
) -> None:
    whole = json.dumps({**GOOD[path], "user": MARK}).encode()
    check(await send(engine, path, whole[:place] + noise + whole[place + len(noise) // 2 :]))


@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("path", GOOD)
async def test_an_error_does_not_grow_with_its_body(engine: DecodingEngine, path: str, size: int) -> None:
    """vLLM's answer to a list of many wrong items had 114 MB."""
    wrong: list[Any] = [[MARK] * size, {f"{NAME}{i}": MARK for i in range(size)}, MARK * size]
    for field in {*GOOD[path], "stop", "logit_bias", "tools", NAME * 1000}:
        for value in wrong:
            response = await send(engine, path, json.dumps({**GOOD[path], field: value}).encode())
            if field not in ("prompt", "stop"):
                assert response.status_code in (400, 404), (field, response.text[:500])
            check(response)


@functools.cache
def service(engine: DecodingEngine) -> Service:
    return Service(engine)


async def send(engine: DecodingEngine, path: str, body: bytes) -> httpx.Response:
    transport = httpx.ASGITransport(app=service(engine).app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        return await client.post(path, content=body, headers={"Content-Type": "application/json"})


def check(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    assert 400 <= response.status_code < 500, response.text[:500]
    assert len(response.content) < 8192
    assert MARK not in response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


@pytest.mark.parametrize("nested", [False, True])
async def test_token_ids_that_cannot_fit_are_refused_by_their_number(
    engine: DecodingEngine, nested: bool
) -> None:
    """Also where a prompt is to be truncated, a longer one then, before each is looked at."""
    service, context = Service(engine), engine.model_config.max_model_len
    for more, most in (({}, context), ({"truncate_prompt_tokens": 8}, 16 * context)):
        ids = [5] * (most + 1)
        body = {"model": "demo", "max_tokens": 1, "prompt": [ids] if nested else ids, **more}
        assert await service.refused("/v1/completions", body) == (
            "prompt",
            f"prompt: At most {most} token ids are allowed.",
        )
