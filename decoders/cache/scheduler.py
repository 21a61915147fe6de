"""The scheduler's half: which blocks a request with a plan holds, shares and gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.sched.interface import SchedulerInterface
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request

from decoders.cache.plan import Plan, make_plan
from decoders.cache.settings import Settings
from decoders.scheduler import AsyncDecantScheduler, DecantScheduler


@dataclass(frozen=True, kw_only=True)
class CompressibleSpec(FullAttentionSpec):
    """Full attention over a cache whose leading blocks may be freed by compression."""


class CompressibleManager(FullAttentionManager):
    """Blocks of requests, some of which have a plan."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plans: dict[str, Plan] = {}

    def remove_skipped_blocks(
        self, request_id: str, processed_computed_tokens: int, num_prompt_tokens: int | None = None
    ) -> None:
        if (plan := self.plans.get(request_id)) is not None:
            self._remove_blocks_in_range(request_id, 0, plan.skip(processed_computed_tokens))

    def cache_blocks(self, request: Request, num_tokens: int, *args: Any, **kwargs: Any) -> None:
        # All other blocks will be rewritten, or hold what depends on slots: nobody else may find them.
        if (plan := self.plans.get(request.request_id)) is not None:
            num_tokens = min(num_tokens, plan.shared_tokens())
        super().cache_blocks(request, num_tokens, *args, **kwargs)

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[KVCacheBlock],
        *args: Any,
        apply_admission_cap: bool = False,
        **kwargs: Any,
    ) -> int:
        # vLLM asks for the whole prompt's blocks at once before it admits a request.
        if apply_admission_cap and (plan := self.plans.get(request_id)) is not None:
            num_tokens = min(num_tokens, plan.most_blocks(num_tokens) * self.block_size)
        return super().get_num_blocks_to_allocate(
            request_id,
            num_tokens,
            new_computed_blocks,
            *args,
            apply_admission_cap=apply_admission_cap,
            **kwargs,
        )


class Compressing:
    """Mixed in before Decant's scheduler classes."""

    tail_managers: ClassVar[tuple[type, ...]] = (CompressibleManager,)
    kv_cache_manager: Any
    connector: Any
    running: list[Request]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        if len(managers) != 1 or not isinstance(managers[0], CompressibleManager):
            raise ValueError(
                "cache_methods need a model whose layers all have full attention: no sliding windows, no "
                "layers without keys and values, no MLA"
            )
        self.manager: CompressibleManager = managers[0]

    def add_request(self, request: Request) -> None:
        params = request.sampling_params
        settings = Settings.from_wire(params.extra_args) if params is not None else None
        if (plan := make_plan(request.num_prompt_tokens, settings, self.manager.block_size)) is not None:
            self.manager.plans[request.request_id] = plan
        super().add_request(request)  # type: ignore[misc]

    def _free_blocks(self, request: Request) -> None:
        super()._free_blocks(request)  # type: ignore[misc]
        self.manager.plans.pop(request.request_id, None)

    def _has_tail(self, request: Request) -> bool:
        own = request.request_id in self.manager.plans
        return not own and super()._has_tail(request)  # type: ignore[misc]

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        # vLLM frees a request's blocks in its own turn, when others may already have been preempted for them.
        for request in self.running:
            if request.request_id in self.manager.plans:
                done = max(0, request.num_computed_tokens - request.num_in_flight_tokens)
                self.kv_cache_manager.remove_skipped_blocks(
                    request.request_id, done, request.num_prompt_tokens
                )
        return super().schedule(*args, **kwargs)  # type: ignore[misc]

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        blocks, found, boundary, diverged = super()._get_local_prefix_cache_hit(request)  # type: ignore[misc]
        plan = self.manager.plans.get(request.request_id)
        if plan is not None and found > (most := plan.shared_tokens()):
            kept = tuple(group[: most // self.manager.block_size] for group in blocks.blocks)
            blocks, found, boundary = self.kv_cache_manager.create_kv_cache_blocks(kept), most, 0
        return blocks, found, boundary, diverged

    def _reserve_prefill_lookahead(self, request: Request, computed: int, new: int) -> int:
        # vLLM asks this for each running and waiting request once it knows how many tokens it could compute.
        new = super()._reserve_prefill_lookahead(request, computed, new)  # type: ignore[misc]
        plan = self.manager.plans.get(request.request_id)
        following = plan.after(computed) if plan is not None else None
        return new if following is None else min(new, following.at - computed)


class CompressingScheduler(Compressing, DecantScheduler):
    """For engines that read a step's tokens before they begin the next step."""


class AsyncCompressingScheduler(Compressing, AsyncDecantScheduler):
    """For engines that are one step ahead."""


def scheduler(*, vllm_config: Any, **arguments: Any) -> SchedulerInterface:
    """What `scheduler_cls` names, as `decoders.scheduler.scheduler` is for engines that do not compress."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    chosen = AsyncCompressingScheduler if asynchronous else CompressingScheduler
    return chosen(vllm_config=vllm_config, **arguments)


def register() -> None:
    """Make the spec known to vLLM; no engine uses it that was not started with a cache method."""
    KVCacheSpecRegistry._ensure_registered()  # it fills an empty registry only
    KVCacheSpecRegistry.register(
        CompressibleSpec, CompressibleManager, uniform_type_base_spec=FullAttentionSpec
    )
