"""More requests than the server's limits: refused at once, and those that run are left alone."""

import json
from contextlib import ExitStack

import openai
import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, PROMPT, TEXT, Http, connection, greedy_text, raw_post, wait_for
from tests.e2e.conftest import CONCURRENT, QUEUED
from tests.e2e.test_bad_requests import error_of

LONG = 500


def test_beyond_the_queue_is_503_with_retry_after(http: Http, client: OpenAI, context_length: int) -> None:
    expected = greedy_text(client, LONG)
    refused = http.metric("decant_requests_rejected_total", reason="overloaded")
    filler = {
        **TEXT,
        "temperature": 1,
        "ignore_eos": True,
        "max_tokens": context_length - 100,
        "stream": True,
    }
    request = raw_post("/v1/completions", json.dumps(filler).encode())
    with ExitStack() as stack:
        witness = stack.enter_context(
            client.completions.create(
                model="demo",
                prompt=PROMPT,
                temperature=0,
                max_tokens=LONG,
                stream=True,
                extra_body={"ignore_eos": True},
            )
        )
        text = next(iter(witness)).choices[0].text
        for _ in range(CONCURRENT + QUEUED):  # one more than there is room for beside the witness
            stack.enter_context(connection(http.address, request))
        wait_for(lambda: http.in_flight() >= CONCURRENT + QUEUED, 10, "the server is full")
        assert http.metric("decant_requests_queued") >= QUEUED - 1
        for stream in (False, True):
            response = http.post("chat", {**CHAT, "stream": stream})
            assert error_of(response, 503)["code"] == "overloaded"
            assert int(response.headers["retry-after"]) > 0
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(**CHAT)
        assert raised.value.status_code == 503
        assert http.running("base") <= CONCURRENT
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models").status_code == 200
        text += "".join(chunk.choices[0].text for chunk in witness if chunk.choices)
    assert text == expected
    assert http.metric("decant_requests_rejected_total", reason="overloaded") >= refused + 3
    wait_for(lambda: http.in_flight() == 0, 10, "those that left have given their slots back")
    assert http.metric("decant_requests_queued") == 0
    assert http.post_ok("chat", CHAT)["choices"]


def test_a_queued_request_runs_when_a_slot_is_free(http: Http, client: OpenAI) -> None:
    """Twice as many at once as may run: all are answered, none is refused."""
    body = {**TEXT, "max_tokens": 60, "ignore_eos": True}
    alone = http.post_ok("text", body)["choices"][0]["text"]
    with ExitStack() as stack:
        request = raw_post("/v1/completions", json.dumps(body).encode(), {"Connection": "close"})
        socks = [stack.enter_context(connection(http.address, request)) for _ in range(2 * CONCURRENT)]
        for sock in socks:
            answer = b""
            while part := sock.recv(65536):
                answer += part
            head, _, content = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(content)["choices"][0]["text"] == alone
