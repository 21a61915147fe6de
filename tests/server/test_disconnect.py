import asyncio

import pytest
from fastapi import Response

from server.disconnect import CLIENT_CLOSED, Departure
from server.metrics import METRICS


class Client:
    """Sends a message now and then, and leaves when told."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.sent = 0

    async def receive(self) -> dict[str, str]:
        self.sent += 1
        if self.sent < 3:
            return {"type": "http.request"}
        await self.leaves.wait()
        return {"type": "http.disconnect"}


ANSWER = Response(status_code=204)


async def waits(ended: list[str], gate: asyncio.Event) -> Response:
    try:
        await gate.wait()
        return ANSWER
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        ended.append("cancelled")
        raise


def count() -> float:
    return METRICS.disconnected.labels("/test")._value.get()


async def test_work_whose_client_stays_is_done() -> None:
    client, gate, ended = Client(), asyncio.Event(), list[str]()
    departure = Departure(client.receive, "/test")
    asyncio.get_running_loop().call_later(0.02, gate.set)
    assert await departure.cancels(waits(ended, gate)) is ANSWER
    client.leaves.set()  # afterwards it may do as it likes
    await asyncio.sleep(0.02)
    assert departure.left.done()
    assert ended == []
    departure.close()


async def test_work_whose_client_leaves_is_cancelled_and_counted() -> None:
    client, ended, before = Client(), list[str](), count()
    departure = Departure(client.receive, "/test")
    asyncio.get_running_loop().call_later(0.02, client.leaves.set)
    response = await departure.cancels(waits(ended, asyncio.Event()))
    assert response.status_code == CLIENT_CLOSED
    assert ended == ["cancelled"]
    assert count() == before + 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.01)  # and nothing cancels this task any more


@pytest.mark.parametrize("raises", [True, False])
async def test_work_that_swallows_its_cancelling_is_counted_too(raises: bool) -> None:
    client, before = Client(), count()

    async def work() -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if raises:
                raise ValueError("cancelled") from None
        return ANSWER

    departure = Departure(client.receive, "/test")
    asyncio.get_running_loop().call_later(0.02, client.leaves.set)
    assert (await departure.cancels(work())).status_code == CLIENT_CLOSED
    assert count() == before + 1


async def test_work_that_fails_fails() -> None:
    async def work() -> Response:
        raise ValueError("broken")

    departure = Departure(Client().receive, "/test")
    with pytest.raises(ValueError, match="broken"):
        await departure.cancels(work())
    departure.close()


async def test_a_departure_just_as_the_work_ends_harms_nobody() -> None:
    client = Client()
    departure = Departure(client.receive, "/test")

    async def work() -> Response:
        await asyncio.sleep(0.01)
        client.leaves.set()
        await asyncio.wait([departure.left])
        return ANSWER

    response = await departure.cancels(work())
    assert response is ANSWER or response.status_code == CLIENT_CLOSED
    await asyncio.sleep(0.01)


async def test_anothers_cancelling_is_not_taken_for_the_clients() -> None:
    client, ended, before = Client(), list[str](), count()
    departure = Departure(client.receive, "/test")
    task = asyncio.ensure_future(departure.cancels(waits(ended, asyncio.Event())))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (ended, count()) == (["cancelled"], before)
    departure.close()
