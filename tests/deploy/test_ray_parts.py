"""The parts of deploy/ray that need no cluster."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from starlette.types import Receive, Scope, Send

from deploy.ray.application import GONE
from deploy.ray.metrics import AllReplicas, Incomplete, shares, together
from deploy.ray.placement import placement
from deploy.ray.proxy import OneVoice
from deploy.ray.settings import SET_BY_RAY, Arguments, read
from server.config import ConfigError, ServeSettings
from tests.deploy.tools import DEPLOY, ROOT


def settings(**given: Any) -> Any:
    return read(Arguments(settings={"allow_no_api_key": True, **given}))


# ---- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SET_BY_RAY, "api_keys"])
def test_what_ray_decides_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"settings.{name} cannot be set here"):
        settings(**{name: "x"})


DECIDED = {
    "config": "other.yaml",
    "host": "127.0.0.1",
    "port": 9000,
    "tls": {"min_version": "1.3"},
    "connections": {"most": 10},
    "death_grace_seconds": 1,
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_ray_decides_is_refused_in_the_file_too(name: str, tmp_path: Path) -> None:
    file = tmp_path / "decant.yaml"
    file.write_text(yaml.safe_dump({"allow_no_api_key": True, name: DECIDED[name]}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{name}, .* does nothing under Ray"):
        read(Arguments(config=file))
    assert DECIDED.keys() == SET_BY_RAY.keys()


def test_what_ray_decides_is_refused_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_CONNECTIONS__MOST", "10")
    with pytest.raises(ConfigError, match=r"^connections, .* does nothing under Ray"):
        settings()


def test_the_images_own_host_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_HOST", "0.0.0.0")
    assert settings().drain_seconds == 30


def test_nothing_that_only_the_listening_half_reads_is_forgotten() -> None:
    """Every setting that server.lifecycle alone acts on is refused."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "server").glob("**/*.py")}
    own = ROOT / "server/lifecycle.py"
    read_there = set(re.findall(r"settings\.(\w+)", sources.pop(own))) & ServeSettings.model_fields.keys()
    elsewhere = "".join(text for path, text in sources.items() if path.name != "config.py")
    elsewhere += (DEPLOY / "ray/application.py").read_text(encoding="utf-8")
    only = {name for name in read_there if not re.search(rf"settings\.{name}\b", elsewhere)}
    assert only
    assert only <= SET_BY_RAY.keys()


def test_a_key_is_asked_for_whatever_the_address() -> None:
    with pytest.raises(ConfigError, match="no API key is configured"):
        read(Arguments())


def test_a_wrong_setting_is_named_without_its_value() -> None:
    with pytest.raises(ConfigError, match=r"limits\.n") as raised:
        settings(limits={"n": "zqx"})
    assert "zqx" not in str(raised.value)


def test_a_file_is_read_beneath_the_arguments(tmp_path: Path) -> None:
    file = tmp_path / "decant.yaml"
    file.write_text("allow_no_api_key: true\ndrain_seconds: 7\nlimits: {n: 3}\n", encoding="utf-8")
    found = read(Arguments(config=file, settings={"drain_seconds": 9}))
    assert (found.drain_seconds, found.limits.n) == (9, 3)


# ---- placement -----------------------------------------------------------------------------------------


def test_engines_on_one_device_need_no_placement() -> None:
    assert placement(settings()) == {}
    assert placement(settings(model="m", engine_args={"tensor_parallel_size": 4})) == {}  # vLLM's own: mp


@pytest.mark.parametrize(("tensor", "pipeline"), [(4, 1), (2, 3)])
def test_each_worker_has_a_bundle_with_one_gpu(tensor: int, pipeline: int) -> None:
    arguments = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    found = placement(
        settings(model="m", engine_args={**arguments, "distributed_executor_backend": "ray"}), cpus=2
    )
    replica, *workers = found["placement_group_bundles"]
    assert replica == {"CPU": 2}
    assert workers == [{"CPU": 1, "GPU": 1}] * (tensor * pipeline)


def test_two_engines_cannot_share_the_bundles() -> None:
    wide = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
    with pytest.raises(ConfigError, match="engine base: distributed_executor_backend"):
        placement(settings(engines={"base": {"model": "m", "args": wide}, "small": {"model": "n"}}))


# ---- what a proxy answers ------------------------------------------------------------------------------


def proxied(*messages: dict[str, Any]) -> httpx.AsyncClient:
    """A client of the proxy's middleware around an application that sends these messages and no more."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return httpx.AsyncClient(transport=httpx.ASGITransport(OneVoice(app)), base_url="http://ray")


def start(status: int, kind: str, *more: tuple[str, str]) -> dict[str, Any]:
    headers = [(b"content-type", kind.encode()), *((n.encode(), v.encode()) for n, v in more)]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_an_answer_that_never_began_is_a_503() -> None:
    async with proxied() as client:
        response = await client.get("/v1/models", headers={"X-Request-Id": "mine"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "replica_lost")
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-request-id"] == "mine"


async def test_a_stream_that_broke_off_ends_with_an_error_event() -> None:
    async with proxied(start(200, "text/event-stream; charset=utf-8"), body(b"data: {}\n\n", True)) as client:
        response = await client.get("/")
    first, error, done = response.text.strip().split("\n\n")
    assert (first, done) == ("data: {}", "data: [DONE]")
    assert '"code": "replica_lost"' in error


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_whole_answer_is_left_alone(kind: str) -> None:
    async with proxied(
        start(200, kind, ("x-request-id", "a"), ("X-Request-ID", "a")), body(b"1", True), body(b"2")
    ) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (200, "12")
    assert response.headers.get_list("x-request-id") == ["a"]


@pytest.mark.parametrize(
    ("status", "code"), [(503, "unavailable"), (408, "invalid_request"), (404, "not_found")]
)
async def test_what_serve_says_itself_gets_openais_shape(status: int, code: str) -> None:
    async with proxied(start(status, "text/plain; charset=utf-8"), body(b"words of Serve")) as client:
        response = await client.get("/")
        own = await client.get("/-/healthz")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "Serve" not in error["message"]
    assert ("retry-after" in response.headers) is (status == 503)
    assert own.text == "words of Serve"


# ---- metrics -------------------------------------------------------------------------------------------

ONE = """# HELP tokens_total Tokens
# TYPE tokens_total counter
tokens_total{engine="a"} 3.0
# HELP seconds Time
# TYPE seconds histogram
seconds_bucket{le="1.0"} 1.0
seconds_bucket{le="+Inf"} 2.0
seconds_count 2.0
seconds_sum 4.5
"""


def test_replicas_stand_side_by_side_in_one_exposition() -> None:
    families = list(text_string_to_metric_families(together({"r1": ONE, "r2": ONE}).decode()))
    assert sorted(family.name for family in families) == ["seconds", "tokens"]
    for family in families:
        assert len(family.samples) == 2 * (1 if family.name == "tokens" else 4)
        assert {sample.labels["replica"] for sample in family.samples} == {"r1", "r2"}


def test_a_replica_that_is_gone_has_no_share() -> None:
    told = [("r1", ONE), ActorDiedError(), ActorUnavailableError("gone", None), ("r2", "")]
    assert shares(told, GONE) == {"r1": ONE, "r2": ""}


FAILED = RayTaskError("metrics", "Traceback", RuntimeError("zqx"))


@pytest.mark.parametrize(
    "told",
    [[("r1", ONE), FAILED], [("r1", ONE), FAILED.as_instanceof_cause()], [ActorDiedError()], []],
    ids=["its error", "its error by cause", "all gone", "none"],
)
def test_a_live_replicas_share_cannot_be_left_out(told: list[Any]) -> None:
    with pytest.raises(Incomplete):
        shares(told, GONE)


@pytest.mark.parametrize("error", [TimeoutError(), Incomplete("a replica")], ids=repr)
async def test_metrics_without_a_replicas_share_are_refused(error: Exception) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, "text/plain"))
        await send(body(b"own"))

    async def collect() -> bytes:
        raise error

    transport = httpx.ASGITransport(AllReplicas(app, collect))
    async with httpx.AsyncClient(transport=transport, base_url="http://ray") as client:
        response = await client.get("/metrics")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "metrics_incomplete")


async def test_metrics_are_gathered_only_where_the_server_would_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        allowed = any(name == b"authorization" for name, _ in scope["headers"])
        await send(start(200 if allowed else 401, "text/plain"))
        await send(body(b"own" if allowed else b"no"))

    async def collect() -> bytes:
        return b"of all replicas"

    transport = httpx.ASGITransport(AllReplicas(app, collect))
    async with httpx.AsyncClient(transport=transport, base_url="http://ray") as client:
        assert (await client.get("/metrics")).text == "no"
        key = {"Authorization": "Bearer k"}
        assert (await client.get("/metrics", headers=key)).text == "of all replicas"
        assert (await client.get("/health", headers=key)).text == "own"
