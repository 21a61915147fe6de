"""What the tests send and how they read what comes back."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

KEY = "key-of-the-tests-1"
SECOND_KEY = "key-of-the-tests-2"
FILE_KEY = "key-of-the-tests-3"

PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
QUESTION = [{"role": "user", "content": "What is the capital of the country?"}]
PROMPT = "The capital of"
CHAT: dict[str, Any] = {"model": "demo", "messages": QUESTION, "max_tokens": 8, "temperature": 0}
TEXT: dict[str, Any] = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
GOOD = {"chat": CHAT, "text": TEXT}
ON_SMALL = {"sequence": {"method": "plain", "engine": "small"}}


class Http:
    """Plain HTTP for what the `openai` client would not send or would hide."""

    def __init__(self, session: httpx.Client) -> None:
        self.session = session
        self.get = session.get
        self.request = session.request

    @property
    def address(self) -> tuple[str, int]:
        url = urlsplit(str(self.session.base_url))
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.session.post(PATHS.get(path, path), content=json.dumps(body), headers=JSON)

    def post_ok(self, path: str, body: Any) -> dict[str, Any]:
        response = self.post(path, body)
        assert response.status_code == 200, response.text[:2000]
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Every event of a stream that ends with [DONE]."""
        events = [line.removeprefix("data: ") for line in self.stream_lines(path, body)]
        assert events[-1] == "[DONE]", events[-3:]
        assert "[DONE]" not in events[:-1]
        return [json.loads(event) for event in events[:-1]]

    def stream_lines(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        request = {**body, "stream": True}
        with self.session.stream("POST", PATHS[path], json=request) as response:
            assert response.status_code == 200, response.read()[:2000]
            assert response.headers["content-type"].startswith("text/event-stream")
            yield from (line for line in response.iter_lines() if line)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        text = self.get("/metrics").text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def running(self, engine: str) -> float:
        return self.metric("vllm:num_requests_running", decant_engine=engine)

    def in_flight(self) -> float:
        return self.metric("decant_requests_in_flight")


JSON = {"Content-Type": "application/json"}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def raw_post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """An HTTP/1.1 request as bytes, with the first key and a declared length."""
    given = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@contextmanager
def connection(address: tuple[str, int], data: bytes) -> Iterator[socket.socket]:
    """A connection on which `data` has been sent; closed, and so abandoned, at the end."""
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(data)
        yield sock


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls made at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def token_ids(http: Http, text: str) -> list[int]:
    ids: list[int] = http.post_ok(
        "/tokenize", {"model": "demo", "prompt": text, "add_special_tokens": False}
    )["tokens"]
    return ids


def text_of(http: Http, ids: list[int]) -> str:
    return str(http.post_ok("/detokenize", {"model": "demo", "tokens": ids})["prompt"])


def greedy_text(client: OpenAI, max_tokens: int = 32, **options: Any) -> str:
    """The plain continuation of PROMPT, of exactly `max_tokens` tokens."""
    completion = client.completions.create(
        model="demo",
        prompt=PROMPT,
        temperature=0,
        max_tokens=max_tokens,
        extra_body={"ignore_eos": True, **options.pop("extra_body", {})},
        **options,
    )
    return completion.choices[0].text
