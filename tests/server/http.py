"""The service in this process: its app over the tests' engines, asked by HTTP without a socket."""

from typing import Any

import httpx

from server.app import build_app
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.metrics import EngineMetrics


class Service:
    """`limits`: as in the configuration."""

    def __init__(self, engine: DecodingEngine, **limits: int) -> None:
        self.app = build_app(engine, ServeSettings(model=None, limits=limits), EngineMetrics())

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            return await client.post(path, json=body)

    async def post_ok(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.post(path, body)
        assert response.status_code == 200, response.text[:2000]
        answer: dict[str, Any] = response.json()
        return answer

    async def refused(self, path: str, body: dict[str, Any]) -> tuple[str, str]:
        """The field at fault and the message of a 400."""
        response = await self.post(path, body)
        assert response.status_code == 400, response.text[:2000]
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["param"], error["message"]
