"""The half of a scheduler that lets prefix-cache hits end inside a block.

vLLM 0.32 finds full blocks only, except in hybrid models: a request that continues another one computes
again what lay in its last, partially filled block. But it can copy such a block before the first write to
it, once a hit ends there. So all that is added is to remember the last block of a request that has ended
(or was preempted), and to extend a later request's hit by it.
"""

import logging
from collections import OrderedDict
from typing import Any, ClassVar

from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import (
    BlockHash,
    KVCacheBlock,
    generate_block_hash_extra_keys,
    hash_block_tokens,
    make_block_hash_with_group_id,
)
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import Request

from decoders.prefix.limit import limit_of
from decoders.prefix.tails import Parent, Tails

logger = logging.getLogger("decant.prefix")


class PooledBlocks:
    """vLLM's block pool, which forgets a block's keys when it gives the block to another request.

    Partly filled blocks may be a share of the pool at most: beyond it the oldest is the next that the pool
    gives away, since it holds less than a full one.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._partial: OrderedDict[bytes, None] = OrderedDict()
        self._most = max(16, pool.num_gpu_blocks // 8)

    def insert(self, key: bytes, block: KVCacheBlock, tokens: int) -> None:
        if block.block_hash is None:
            self._partial[key] = None
            self._partial.move_to_end(key)
        if len(self._partial) > self._most:
            self._give_up(self._partial.popitem(last=False)[0])
        self._pool._insert_block_hash(make_block_hash_with_group_id(BlockHash(key), 0), block, tokens)

    def _give_up(self, key: bytes) -> None:
        block = self.find(key)
        if block is not None and block.ref_cnt == 0:
            self._pool._maybe_evict_cached_block(block)
            self._pool.free_block_queue.remove(block)
            self._pool.free_block_queue.prepend_n([block])

    def find(self, key: bytes) -> KVCacheBlock | None:
        found = self._pool.get_cached_block(BlockHash(key), [0])
        return found[0] if found else None


def _limit(request: Request) -> int | None:
    return limit_of(request.sampling_params.extra_args) if request.sampling_params else None


class TailReuse(Scheduler):
    """Extends prefix-cache hits by the tokens of partially filled blocks.

    tail_managers: the managers of blocks of which every one holds what its tokens say, but those of requests
    that `_has_tail` excludes.
    """

    tail_managers: ClassVar[tuple[type, ...]] = (FullAttentionManager,)
    _tails: Tails | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        obstacle = self._tails_obstacle()
        if obstacle is not None:
            logger.info("partially filled blocks are not reused: %s", obstacle)
            return
        hash_function = get_hash_fn_by_name(self.cache_config.prefix_caching_hash_algo)

        def key(parent: Parent, tokens: tuple[int, ...]) -> bytes:
            before, extra = parent
            return hash_block_tokens(
                hash_function, BlockHash(before) if before is not None else None, tokens, ("tail", extra)
            )

        pool = self.kv_cache_manager.block_pool
        self._tails = Tails(PooledBlocks(pool), key, capacity=pool.num_gpu_blocks)

    def _tails_obstacle(self) -> str | None:
        """Why this engine cannot reuse tails, in words; None if it can."""
        managers = self.kv_cache_manager.coordinator.single_type_managers
        if not self.kv_cache_manager.enable_caching:
            return "prefix caching is off"
        if len(managers) != 1 or type(managers[0]) not in self.tail_managers:
            return "not all layers attend to the whole context"
        if self.vllm_config.speculative_config is not None:
            return "the engine speculates"  # whose drafter keeps account of what each block holds
        if self.connector is not None or managers[0].block_size != self.block_size:
            return "blocks are shared with other processes"
        return None

    def _tail_parent(self, request: Request, start: int) -> Parent:
        extra, _ = generate_block_hash_extra_keys(request, start, start + 1, 0)
        count = start // self.block_size
        return (request.block_hashes[count - 1] if count else None), extra

    def _has_tail(self, request: Request) -> bool:
        """Whether the request's last block holds what its tokens say."""
        return not request.mm_features and request.prompt_embeds is None

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        blocks, length, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if self._tails is None or not self.kv_cache_manager.prefix_cache_lookup_enabled(request):
            return blocks, length, boundary, diverged
        # The last token is always computed, for its logits.
        limit = _limit(request)
        end = request.num_tokens - 1 if limit is None else min(limit, request.num_tokens - 1)
        length = min(length, end // self.block_size * self.block_size)
        held = list(blocks.blocks[0][: length // self.block_size]) if length else []
        following = request.all_token_ids[length : min(length + self.block_size, end)]
        if following and self._has_tail(request):
            found = self._tails.longest(self._tail_parent(request, length), following)
            if found is not None:
                held.append(found[0])
                length += found[1]
        return self.kv_cache_manager.create_kv_cache_blocks((held,)), length, boundary, diverged

    def _free_request_blocks(self, request: Request) -> None:
        # Nobody continues a prompt that was only to be scored: its blocks would push useful ones out.
        if self._tails is not None and self._has_tail(request) and _limit(request) is None:
            self._remember(self._tails, request)
        super()._free_request_blocks(request)

    def _remember(self, tails: Tails, request: Request) -> None:
        """The last block, and the one in which the prompt ends: others may share it up to there."""
        held = self.kv_cache_manager.get_blocks(request.request_id).blocks
        # What a step in flight still writes comes before any copy, and lies behind the last known token.
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        index, filled = divmod(computed, self.block_size)
        if not held or len(held[0]) < index + bool(filled) or len(request.block_hashes) < index:
            return
        prompt = (request.num_prompt_tokens - 1) // self.block_size
        if prompt < index:
            start = prompt * self.block_size
            tokens = request.all_token_ids[start : start + self.block_size]
            tails.add(self._tail_parent(request, start), tokens, held[0][prompt])
        if filled:
            start = index * self.block_size
            tokens = request.all_token_ids[start:computed]
            tails.add(self._tail_parent(request, start), tokens, held[0][index])
