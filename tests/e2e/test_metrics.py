"""/metrics: every engine's own numbers and the server's, moved by exactly what was done."""

import time

import pytest

from tests.e2e.client import CHAT, TEXT, Http, together

ENGINES = ["base", "small"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engines_metrics_stand_under_its_name(http: Http, engine: str) -> None:
    text = http.get("/metrics").text
    for name in ("vllm:num_requests_running", "vllm:generation_tokens_total", "vllm:kv_cache_usage_perc"):
        assert any(
            line.startswith(f"{name}{{") and f'decant_engine="{engine}"' in line for line in text.splitlines()
        ), name
    assert http.metric("decant_engine_up", engine=engine) == 1


def test_each_family_is_described_once(http: Http) -> None:
    lines = http.get("/metrics").text.splitlines()
    families = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(families) == len(set(families))
    samples = [line.rsplit(" ", 1)[0] for line in lines if line and not line.startswith("#")]
    assert len(samples) == len(set(samples))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_are_counted_on_the_engine_that_decoded_them(http: Http, engine: str, streamed: bool) -> None:
    def counts() -> list[float]:
        ours = [http.metric("decant_tokens_total", engine=name, method="plain") for name in ENGINES]
        theirs = [http.metric("vllm:generation_tokens_total", decant_engine=name) for name in ENGINES]
        return ours + theirs

    before = counts()
    sequence = {"method": "plain", "engine": engine}
    body = {**TEXT, "n": 2, "temperature": 1, "max_tokens": 11, "ignore_eos": True}
    body |= {"decoding": {"sequence": sequence}}
    if streamed:
        http.stream("text", body)
    else:
        http.post_ok("text", body)
    moved = [after - start for after, start in zip(counts(), before, strict=True)]
    assert moved == [22.0 if name == engine else 0.0 for name in ENGINES * 2]


def test_requests_are_counted_by_route_and_status(http: Http) -> None:
    def count(status: str) -> float:
        return http.metric(
            "decant_requests_total", route="/v1/chat/completions", method="POST", status=status
        )

    before = count("200"), count("400"), count("404")
    together([lambda: http.post("chat", CHAT)] * 3)
    http.post("chat", {**CHAT, "n": 0})
    http.post("chat", {**CHAT, "model": "nothing"})
    assert (count("200"), count("400"), count("404")) == (before[0] + 3, before[1] + 1, before[2] + 1)


def test_unknown_paths_do_not_become_labels(http: Http) -> None:
    http.get("/zqx-not-a-route")
    assert "zqx-not-a-route" not in http.get("/metrics").text


def test_first_token_times_are_of_streams_only(http: Http) -> None:
    def count() -> float:
        return http.metric("decant_first_token_seconds_count", route="/v1/completions")

    before = count()
    http.post_ok("text", TEXT)
    assert count() == before
    http.stream("text", TEXT)
    for _ in range(50):  # the stream's end reaches its client before it is counted
        if count() != before:
            break
        time.sleep(0.1)
    assert count() == before + 1


def test_nothing_is_in_flight_when_nothing_runs(http: Http) -> None:
    assert http.in_flight() == 0
    assert http.metric("decant_requests_queued") == 0
    assert [http.running(engine) for engine in ENGINES] == [0, 0]
