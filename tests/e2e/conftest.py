"""One server for nearly all tests, and the clients that talk to it."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, FILE_KEY, KEY, SECOND_KEY, Http
from tests.e2e.process import Decant, serving

FOLDER = Path(__file__).parent
CONCURRENT = 8
QUEUED = 24
BODY_BYTES = 200_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with servers of their own come first, so that no two servers run at the same time."""
    items.sort(key=lambda item: FOLDER in item.path.parents and "server" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    """The embedded models behind keys and modest limits."""
    folder: Path = tmp_path_factory.mktemp("server")
    keys = folder / "keys"
    keys.write_text(f"# keys of the tests\n\n{FILE_KEY}  # the third\n", encoding="utf-8")
    flags = ["--api-keys", json.dumps([KEY, SECOND_KEY]), "--api-keys-file", str(keys)]
    flags += ["--limits.concurrent-requests", str(CONCURRENT), "--limits.queued-requests", str(QUEUED)]
    flags += ["--limits.body-bytes", str(BODY_BYTES), "--tool-call-parser", "hermes"]
    flags += ["--connections.write-seconds", "600"]  # of slow readers that are to be waited for
    with serving(folder / "log", *flags) as running:
        yield running
        assert running.process.poll() is None, f"the server is gone:\n{running.tail()}"


@pytest.fixture(scope="session")
def client(server: Decant) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as openai:
        yield openai


@pytest.fixture(scope="session")
def http(server: Decant) -> Iterator[Http]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as session:
        yield Http(session)


@pytest.fixture(scope="session")
def context_length(client: OpenAI) -> int:
    """Tokens that fit into the served model's context."""
    length = client.models.retrieve("demo").to_dict()["max_model_len"]
    assert isinstance(length, int)
    return length


@pytest.fixture(scope="module")
def still_answers(http: Http) -> Iterator[None]:
    """After the module's last test the server must answer as it did before its first."""
    before = http.post_ok("chat", CHAT)["choices"]
    yield
    assert http.post_ok("chat", CHAT)["choices"] == before
    assert http.get("/health").status_code == 200
