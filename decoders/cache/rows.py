"""Which rows of a step's batch are compressed, and what their requests keep between steps in the worker."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor

from decoders.cache.measured import Measured
from decoders.cache.plan import Compression, Plan, make_plan
from decoders.cache.settings import REPORT, Settings

_shared: "WeakValueDictionary[str, Rows]" = WeakValueDictionary()


@dataclass
class Kept:
    """What one request keeps in one layer.

    queries: the last ones, `[tokens, query_heads, dim]` each, which end before token `upto`.
    mass: tokens that each slot of the last compression stands for, float32 `[heads, slots]`.
    """

    queries: list[Tensor] = field(default_factory=list)
    upto: int = 0
    mass: Tensor | None = None

    def keep(self, query: Tensor, first: int) -> None:
        """Remember the queries of the tokens from `first` on. After a preemption it begins anew."""
        if first != self.upto:
            self.queries.clear()
        self.queries.append(query.clone())
        self.upto = first + len(query)

    def last(self, count: int) -> Tensor:
        """The last `count` queries, forgotten afterwards."""
        from torch import cat

        queries = cat(self.queries)[-count:]
        self.queries.clear()
        assert len(queries) == count, "queries that score keys are missing"
        return queries


@dataclass(eq=False)
class Compressed:
    """A request with a plan. layers: by name."""

    settings: Settings
    plan: Plan
    report: str | None
    layers: dict[str, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A request with a plan in one step.

    index: its row. first, length: its tokens in the batch. computed: its tokens computed before the step.
    """

    request: Compressed
    index: int
    first: int
    length: int
    computed: int

    @property
    def done(self) -> Compression | None:
        """The compression whose layout the step reads."""
        return self.request.plan.before(self.computed)

    @property
    def due(self) -> Compression | None:
        """The compression that the step does when its tokens have been computed; None if it does none."""
        following = self.request.plan.after(self.computed)
        if following is None or following.at > self.computed + self.length:
            return None
        if following.at < self.computed + self.length:
            raise RuntimeError("a step goes beyond a compression: scheduler and worker do not agree")
        return following

    def wanted_queries(self) -> slice | None:
        """Which of the row's queries will score keys, in this step or later; None if none will."""
        following = self.request.plan.after(self.computed)
        if following is None or not following.window:
            return None
        begin = max(following.at - following.window - self.computed, 0)
        return slice(self.first + begin, self.first + self.length) if begin < self.length else None


class Rows:
    """The requests with a plan among vLLM's, row by row.

    runner: vLLM's model runner, whose batch says which request is which row.
    """

    def __init__(self, runner: Any, cache_config: Any) -> None:
        self.runner = runner
        self.cache_config = cache_config
        self.measured = Measured()
        self._requests: dict[str, tuple[Any, Compressed | None]] = {}  # with vLLM's state, by its id

    @property
    def block_size(self) -> int:
        """Tokens of one of the scheduler's blocks."""
        return int(self.cache_config.block_size)

    def of_step(self, query_start: Any, lengths: Any) -> Iterator[Row]:
        """The rows with a plan. query_start `[rows + 1]`, lengths `[rows]` in tokens: on the host."""
        self.measured.settle()
        batch = self.runner.input_batch
        if len(self._requests) > 2 * len(self.runner.requests) + 64:
            running = self.runner.requests
            self._requests = {key: one for key, one in self._requests.items() if key in running}
        for index, key in enumerate(batch.req_ids):
            if index >= len(lengths):
                break
            state = self.runner.requests[key]
            known, request = self._requests.get(key, (None, None))
            if known is not state:
                request = self._made(state)
                self._requests[key] = state, request
            if request is not None:
                first = int(query_start[index])
                length = int(query_start[index + 1]) - first
                yield Row(request, index, first, length, int(lengths[index]) - length)

    def _made(self, state: Any) -> Compressed | None:
        extra = state.sampling_params.extra_args if state.sampling_params is not None else None
        settings = Settings.from_wire(extra)
        plan = make_plan(state.num_prompt_tokens, settings, self.block_size)
        if settings is None or plan is None:
            return None
        return Compressed(settings, plan, (extra or {}).get(REPORT))


def share(config: Any, rows: Rows) -> Rows:
    """Let the attention layers of the worker of this VllmConfig find its rows."""
    return _shared.setdefault(config.instance_id, rows)


def shared(config: Any) -> Rows:
    """The rows of the worker of this VllmConfig."""
    return _shared[config.instance_id]
