import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.auth import KeyRing, RequireKey
from server.keys import digest_of, read_keys


def client(*keys: str, open_paths: frozenset[str] = frozenset()) -> httpx.AsyncClient:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("in")

    routes = [Route(path, answer) for path in ("/", "/health", "/ready", "/metrics", "/v1/models")]
    app = RequireKey(Starlette(routes=routes), KeyRing(read_keys(keys)), open_paths)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def status(http: httpx.AsyncClient, path: str, *authorization: str) -> int:
    headers = [("Authorization", value) for value in authorization]
    return (await http.get(path, headers=headers)).status_code


@pytest.mark.parametrize("key", ["first", "second"])
async def test_any_configured_key_opens_every_route(key: str) -> None:
    http = client("first", "second")
    assert await status(http, "/v1/models", f"Bearer {key}") == 200
    assert await status(http, "/v1/models", f"bearer {key}") == 200
    assert await status(http, "/nowhere", f"Bearer {key}") == 404


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        ["Bearer "],
        ["Bearer wrong"],
        ["Basic first"],
        ["first"],
        ["Bearer first", "Bearer first"],
        ["Bearer first x"],
    ],
)
async def test_anything_else_is_401(authorization: list[str]) -> None:
    http = client("first")
    for path in ("/v1/models", "/metrics", "/", "/nowhere", "//health", "/health/", "/health%00", "/Health"):
        assert await status(http, path, *authorization) == 401, path


async def test_open_paths_need_no_key() -> None:
    http = client("first", open_paths=frozenset({"/metrics"}))
    assert [await status(http, path) for path in ("/health", "/ready", "/metrics", "/")] == [
        200,
        200,
        200,
        401,
    ]


async def test_without_keys_everything_is_open() -> None:
    assert await status(client(), "/v1/models") == 200


async def test_the_refusal_has_openais_shape_and_hides_the_key() -> None:
    response = await client("first").get("/v1/models", headers={"Authorization": "Bearer GUESS"})
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert "GUESS" not in response.text


async def test_a_websocket_is_closed() -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = RequireKey(Starlette(), KeyRing(read_keys(["first"])), frozenset())
    await app({"type": "websocket", "path": "/x", "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_key_may_be_given_as_its_hash() -> None:
    http = client(f"lab sha256:{digest_of(b'secret').hex().upper()}")
    assert await status(http, "/v1/models", "Bearer secret") == 200
    assert await status(http, "/v1/models", f"Bearer {digest_of(b'secret').hex()}") == 401
    assert await status(http, "/v1/models", f"Bearer sha256:{digest_of(b'secret').hex()}") == 401


def test_a_key_is_known_by_its_name_and_kept_as_a_hash() -> None:
    ring = KeyRing(read_keys(["sesame", "lab open"]))
    assert [ring.name_of(key) for key in (b"sesame", b"open", b"lab", b"lab open")] == [
        "key-1",
        "lab",
        None,
        None,
    ]
    assert "sesame" not in repr(vars(ring))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/v1/models", "/docs", "/openapi.json", "/redoc", "/nowhere", "/health/x"])
async def test_no_method_opens_a_path(method: str, path: str) -> None:
    assert (await client("first").request(method, path)).status_code == 401


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["a b SECRET"], "KEY or NAME KEY"),
        (["n@me SECRET"], "KEY or NAME KEY"),
        (["SECRET", "SECRET"], "key 2 is given twice"),
        (["lab SECRET", "lab other"], "key 2 has the name"),
        (["sha256:SECRET"], "64 hexadecimal digits"),
    ],
)
def test_a_key_that_is_none_is_refused_without_repeating_it(entries: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_keys(entries)
    assert "SECRET" not in str(caught.value)
