"""The questions of a bench: all settings in the same rounds, within a round in an order drawn anew.

A machine that is busy for a while so slows all of them alike. Every setting has its own cache salt where the
server is Decant: none finds blocks in the prefix cache that another one computed.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, Protocol

from server.bench.methods import PLAIN, Setting, offered, with_plain
from server.bench.settings import PRICED, BenchSettings
from server.bench.state import Answer, BenchState
from server.bench.tasks import Question, Task
from server.calibration.client import Client, Reply, question
from server.calibration.errors import CalibrationError, Refused
from server.calibration.rounds import ask_all, rounds

ROUNDS: Final = 12  # of one turn, if they are filled: what cost intervals are made of
SEED_STEP: Final = 10_000  # between two questions' seeds: vLLM counts on from one for each sample


class Bar(Protocol):
    """What shows the progress (tqdm)."""

    total: Any

    def update(self, n: float = 1) -> Any: ...
    def set_description(self, desc: str) -> Any: ...


class Run:
    """One bench. `ask` asks what the state does not hold yet."""

    def __init__(self, options: BenchSettings, task: Task, state: BenchState) -> None:
        self.options = options
        self.task = task
        self.state = state

    def active(self) -> list[Setting]:
        """The settings that are not refused, plain decoding first."""
        return [one for one in self.state.settings or [] if one.name not in self.state.refused]

    def total(self) -> int:
        return len(self.active()) * self.options.turns * len(self.task.questions)

    def done(self) -> int:
        names = {one.name for one in self.active()}
        return sum(setting in names for setting, _, _ in self.state.answers)

    def is_complete(self) -> bool:
        return self.state.settings is not None and self.done() == self.total()

    def rounds(self, turn: int) -> list[list[int]]:
        """The questions' indices, in an order of this turn's own, in rounds."""
        count, concurrency = len(self.task.questions), self.options.concurrency
        size = max(concurrency, -(-count // ROUNDS))
        return rounds(count, size, f"{self.options.seed} questions {turn}")

    async def ask(self, client: Client, bar: Bar) -> None:
        """Raises CalibrationError when the server cannot answer; what it has answered is in the state."""
        await self._settle(client)
        self.check_prices()
        session = self.state.begin_session()
        asker = _Asker(self, client, session, bar)
        for setting in self.active():
            await asker.warm(setting)
        bar.total = self.total()
        for turn in range(self.options.turns):
            for number, indices in enumerate(self.rounds(turn)):
                settings = self.active()
                Random(f"{self.options.seed} {turn} round {number}").shuffle(settings)
                for setting in settings:
                    if setting.name not in self.state.refused:
                        await asker.batch(setting, turn, number, indices)

    def check_prices(self) -> None:
        """Raise CalibrationError for the price of an engine that the server does not have."""
        known = (*PRICED, *self.state.server["engines"])
        if any(name not in known for name in self.options.price):
            raise CalibrationError(f"price: every name must be one of {', '.join(known)}")

    async def _settle(self, client: Client) -> None:
        """Decide what is compared; or, going on, see that the server is the one that was asked before."""
        models = (await client.get("/v1/models")).get("data")
        if not isinstance(models, list) or not models:
            raise CalibrationError(f"url: {client.url} lists no models, so it serves no OpenAI API")
        try:
            catalogue: dict[str, Any] | None = await client.get("/v1/decoding/methods")
        except Refused:
            catalogue = None
        server = {
            "model": self.options.model or str(models[0]["id"]),
            "engines": {name: one["model"] for name, one in catalogue["engines"].items()}
            if catalogue
            else {},
        }
        if self.state.settings is not None:
            if self.state.server != server:
                raise CalibrationError(
                    f"state {self.state.path} is of another server: {self.state.server}, not {server}. "
                    "Give another --state, or delete it."
                )
            return
        settings = self.options.given()
        if not settings and catalogue is None:
            raise CalibrationError(
                f"url: {client.url} is no Decant server, so it does not say what it offers; "
                "name what to compare with settings or setting"
            )
        if not settings and catalogue is not None:
            settings = offered(catalogue, models)
        self.state.set_settings(with_plain(settings), server)


class _Asker:
    """Asks one batch at a time, `concurrency` of its questions at once."""

    def __init__(self, run: Run, client: Client, session: int, bar: Bar) -> None:
        self.run = run
        self.client = client
        self.session = session
        self.bar = bar

    async def warm(self, setting: Setting) -> None:
        """Ask one question whose answer is not counted: first requests load code, and refusals show."""
        self.bar.set_description(f"{setting.name}, warming up")
        await self._guarded(setting, 0, 0, f"{self.run.state.salt} {setting.name} warm")

    async def batch(self, setting: Setting, turn: int, number: int, indices: Sequence[int]) -> None:
        state = self.run.state
        waiting = [i for i in indices if (setting.name, turn, i) not in state.answers]
        self.bar.set_description(setting.name)

        async def one(index: int) -> None:
            if setting.name in state.refused:
                return
            # Decant's prefix cache is not shared between turns either: each pays for its prompts.
            reply = await self._guarded(setting, turn, index, f"{state.salt} {setting.name} {turn}")
            if reply is not None:
                where = {"setting": setting.name, "turn": turn, "round": number, "session": self.session}
                state.add(read(reply, question=index, **where))
                self.bar.update()

        await ask_all(waiting, self.run.options.concurrency, one)
        self.bar.total = self.run.total()

    async def _guarded(self, setting: Setting, turn: int, index: int, salt: str) -> Reply | None:
        """The reply; None if the setting is refused, which the state then says.

        Raises CalibrationError if plain decoding is refused: there is nothing to compare with.
        """
        asked = self.run.task.questions[index]
        path, body = self._body(setting, asked, turn, index, salt)
        try:
            reply = await self.client.post(path, body)
            if setting.decoding and "decoding" not in reply.body:
                raise Refused("the server answers, but does not act on `decoding`: it is no Decant server")
        except Refused as refusal:
            if setting.name == PLAIN:
                raise CalibrationError(f"{PLAIN}, {asked.where}: {refusal}") from None
            self.run.state.refuse(setting.name, f"{asked.where}: {refusal}")
            return None
        return reply

    def _body(
        self, setting: Setting, asked: Question, turn: int, index: int, salt: str
    ) -> tuple[str, dict[str, Any]]:
        options, server = self.run.options, self.run.state.server
        path, fields = question(asked.ask, options.prompt_as == "text")
        body: dict[str, Any] = {
            **fields,
            "model": setting.model or server["model"],
            "temperature": options.temperature if setting.chooses() else 0,
            "seed": options.seed + SEED_STEP * (1 + index + turn * len(self.run.task.questions)),
            **({"stop": list(asked.stop)} if asked.stop else {}),
            **setting.request,
        }
        if "max_completion_tokens" not in body:
            body["max_tokens"] = asked.max_tokens or options.max_tokens
        if server["engines"]:
            body["cache_salt"] = salt
            body["decoding"] = {**setting.extracting(asked.extract), "report": True}
        elif setting.decoding:
            body["decoding"] = {**setting.decoding, "report": True}
        return path, body


def read(reply: Reply, **where: Any) -> Answer:
    """What an answer says of its cost. Raises CalibrationError for one that is not OpenAI's."""
    try:
        choice, usage = reply.body["choices"][0], reply.body["usage"]
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        report: Mapping[str, Any] = reply.body.get("decoding") or {}
        sequence, cache = report.get("sequence", {}), report.get("cache", {})
        return Answer(
            **where,
            text=text or "",
            finish=str(choice["finish_reason"]),
            prompt=usage["prompt_tokens"],
            cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            generated=usage["completion_tokens"],
            scored=usage.get("scoring_tokens") or 0,
            recomputed=sequence.get("recomputed_tokens", 0),
            engines=sequence.get("tokens", {}),
            kept=cache.get("kept_slots"),
            began=reply.began,
            ended=reply.ended,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"the server's answer is not OpenAI's: {type(error).__name__}") from error
