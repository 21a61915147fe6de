"""Mixed load in closed and open loops, and more than there is room for: a bounded form of `make loadtest`."""

from collections.abc import Iterator

import pytest

from deploy.loadtest.criteria import accounts
from deploy.loadtest.mix import KINDS
from deploy.loadtest.stages import Runner, Stage
from deploy.loadtest.traffic import traffic
from deploy.loadtest.watch import counts, logged, moved
from tests.e2e.client import KEY
from tests.e2e.process import Decant, serving

RUNNING, WAITING = 8, 8
BURST = 150  # requests within a second, of which RUNNING + WAITING can be held


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    """A server of its own, whose log can be read by machines."""
    flags = ["--api-keys", KEY, "--log-format", "json"]
    flags += ["--limits.concurrent-requests", str(RUNNING), "--limits.queued-requests", str(WAITING)]
    with serving(tmp_path_factory.mktemp("load") / "log", *flags) as running:
        yield running
        assert running.process.poll() is None, f"the server is gone:\n{running.tail()}"


async def test_no_request_is_lost_under_load_and_overload(loaded: Decant) -> None:
    async with traffic(loaded.url, "load-e2e", KEY) as client:
        before = await counts(client.session)
        runner = Runner(client)
        calm = await runner.run(Stage("calm", 6.0, workers=RUNNING))
        overload = await runner.run(Stage("overload", 1.0, rate=BURST))
        after = await runner.run(Stage("after", 2.0, workers=RUNNING))
        counted = await moved(client.session, before, client.sent)
        lines = logged(loaded.log, "load-e2e")
    verdicts = accounts(client.outcomes, client.sent, counted, lines)
    assert not [verdict for verdict in verdicts if not verdict.holds]
    assert {outcome.kind for outcome in client.outcomes} == {kind.name for kind in KINDS}
    for measured in (calm, after):
        assert measured.numbers["refused"] == 0
        assert measured.numbers["answered"] == len(measured.outcomes) > 0
    assert overload.numbers["refused"] > 0
    assert overload.numbers["answered"] >= RUNNING
    # A refusal waits for nothing; an answer waits for its turn.
    assert overload.numbers["refusal"]["p50"] < overload.numbers["latency"]["p50"]
