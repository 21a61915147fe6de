"""The questions of a calibration: both models traced, thresholds chosen, then every setting in rounds.

All settings are asked the same prompts in the same rounds, within a round one after the other in an order
drawn anew, so that a machine that is busy for a while slows all of them alike. Every setting has its own
salt: none finds blocks in the prefix cache that another one computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from server.calibration.client import Client, Pair, Reply
from server.calibration.data import Prompt
from server.calibration.errors import CalibrationError
from server.calibration.rounds import ask_all, rounds
from server.calibration.settings import EadSettings
from server.calibration.state import Answer, State
from server.calibration.thresholds import Switching, Trace, choose, rolling

ROUNDS: Final = 4  # at least, if the prompts fill them
FILLED: Final = 4  # prompts of a round, as a multiple of the concurrency, at most
NEVER: Final = 1e6  # bits, above every entropy
ALWAYS: Final = -1.0  # bits, below every entropy
SMALL, LARGE = "small", "large"
TRACED: Final = {SMALL: "small, traced", LARGE: "large, traced"}


@dataclass(frozen=True)
class Setting:
    """A way of answering; threshold in bits, None for one model alone."""

    name: str
    sequence: dict[str, Any]
    threshold: float | None = None


class Bar(Protocol):
    """What shows the progress (tqdm)."""

    total: Any

    def update(self, n: float = 1) -> Any: ...
    def set_description(self, desc: str) -> Any: ...


class Sweep:
    """One calibration. `run` asks what the state does not hold yet."""

    def __init__(self, options: EadSettings, prompts: Sequence[Prompt], state: State) -> None:
        self.options = options
        self.prompts = prompts
        self.state = state
        self.switching = Switching(options.window, options.dwell, options.switch == "now")

    def is_complete(self) -> bool:
        if self.state.engines is None or self.state.thresholds is None:
            return False
        return self.done() == self.total()

    def done(self) -> int:
        return len(self.state.answers)

    def total(self) -> int:
        thresholds = self.options.thresholds if self.state.thresholds is None else len(self.state.thresholds)
        return len(self.prompts) * (len(TRACED) + len((SMALL, LARGE)) + thresholds)

    def settings(self) -> list[Setting]:
        """What is measured, once the thresholds are known; the small model first, the large one last."""
        pair = self._pair()
        ead = [
            Setting(f"ead {threshold:g}", self._ead(threshold), threshold)
            for threshold in sorted(self.state.thresholds or [], reverse=True)
        ]
        small = Setting(SMALL, {"method": "plain", "engine": pair["small"]})
        return [small, *ead, Setting(LARGE, {"method": "plain", "engine": pair["large"]})]

    async def run(self, client: Client, pair: Pair, bar: Bar) -> None:
        """Raises CalibrationError when the server cannot answer; what it has answered is in the state."""
        if self.state.engines is None:
            self.state.set_engines(pair.record())
        elif self.state.engines != pair.record():
            raise CalibrationError(
                f"state {self.state.path} is of other engines: {self.state.engines}, not {pair.record()}. "
                "Give another --state, or delete it."
            )
        session = self.state.begin_session()
        asker = _Asker(self, client, pair, session, bar)
        for number, prompts in enumerate(self.rounds()):
            for setting in self._shuffled(self._traces(), f"traces {number}"):
                await asker.batch(setting, number, prompts)
        if self.state.thresholds is None:
            self.state.set_thresholds(choose(self._traced(), self.options.thresholds, self.switching))
            bar.total = self.total()
        for number, prompts in enumerate(self.rounds()):
            for setting in self._shuffled(self.settings(), f"round {number}"):
                await asker.batch(setting, number, prompts)

    def rounds(self) -> list[list[int]]:
        """The prompts' indices, in an order of their own, in rounds."""
        concurrency, count = self.options.concurrency, len(self.prompts)
        size = max(concurrency, min(FILLED * concurrency, -(-count // ROUNDS)))
        return rounds(count, size, f"{self.state.salt} prompts")

    def _shuffled(self, settings: list[Setting], what: str) -> list[Setting]:
        Random(f"{self.state.salt} {what}").shuffle(settings)
        return settings

    def _traces(self) -> list[Setting]:
        small = {**self._ead(NEVER), "start": SMALL, "trace": True}
        large = {**self._ead(ALWAYS), "start": LARGE, "trace": True}
        return [Setting(TRACED[SMALL], small), Setting(TRACED[LARGE], large)]

    def _traced(self) -> list[Trace]:
        def means(role: str, prompt: int) -> tuple[float, ...]:
            entropies = self.state.answers[TRACED[role], prompt].entropies or []
            return rolling(entropies, self.options.window)

        return [Trace(means(SMALL, i), means(LARGE, i)) for i in range(len(self.prompts))]

    def _ead(self, threshold: float) -> dict[str, Any]:
        pair = self._pair()
        return {
            "method": "ead",
            "small": pair["small"],
            "large": pair["large"],
            "threshold": threshold,
            "window": self.options.window,
            "dwell": self.options.dwell,
            "switch": self.options.switch,
        }

    def _pair(self) -> dict[str, Any]:
        if self.state.engines is None:
            raise CalibrationError("no server has been asked yet")
        return self.state.engines


class _Asker:
    """Asks one batch at a time, `concurrency` of its questions at once."""

    def __init__(self, sweep: Sweep, client: Client, pair: Pair, session: int, bar: Bar) -> None:
        self.sweep = sweep
        self.client = client
        self.pair = pair
        self.session = session
        self.bar = bar

    async def batch(self, setting: Setting, number: int, prompts: Sequence[int]) -> None:
        waiting = [i for i in prompts if (setting.name, i) not in self.sweep.state.answers]
        if not waiting:
            return
        self.bar.set_description(setting.name)
        await ask_all(
            waiting, self.sweep.options.concurrency, lambda index: self._one(setting, number, index)
        )

    async def _one(self, setting: Setting, number: int, index: int) -> None:
        options, state = self.sweep.options, self.sweep.state
        reply = await self.client.ask(
            self.sweep.prompts[index],
            served=self.pair.served,
            sequence=setting.sequence,
            max_tokens=options.max_tokens,
            as_text=options.prompt_as == "text",
            salt=f"{state.salt} {setting.name}",
        )
        state.add(_answer(reply, setting.name, index, number, self.session))
        self.bar.update()


def _answer(reply: Reply, setting: str, index: int, number: int, session: int) -> Answer:
    try:
        choice, report = reply.body["choices"][0], reply.body["decoding"]["sequence"]
        traces = report.get("traces")
        entropies = [round(value, 6) for value in traces[0]["entropies"]] if traces else None
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        return Answer(
            prompt=index,
            setting=setting,
            round=number,
            session=session,
            text=text or "",
            tokens=choice["token_ids"],
            engines=report.get("tokens", {}),
            switches=report.get("switches", 0),
            recomputed=report.get("recomputed_tokens", 0),
            finish=str(choice["finish_reason"]),
            began=reply.began,
            ended=reply.ended,
            entropies=entropies,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"the server's answer is not Decant's: {error!r}") from error
