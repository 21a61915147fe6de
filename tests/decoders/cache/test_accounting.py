"""Block accounting: with any requests in any order, blocks in use are those that the plans say."""

from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.core.block_pool import BlockPool

from decoders.cache.plan import make_plan
from decoders.cache.scheduler import CompressibleManager, CompressibleSpec
from tests.decoders.cache.test_plan import SETTINGS

BLOCK = 32


def manager() -> CompressibleManager:
    import torch

    spec = CompressibleSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
    pool = BlockPool(num_gpu_blocks=2000, enable_caching=False, hash_block_size=BLOCK)
    return CompressibleManager(
        spec, block_pool=pool, enable_caching=False, kv_cache_group_id=0, scheduler_block_size=BLOCK
    )


REQUESTS = st.lists(
    st.tuples(st.none() | SETTINGS, st.integers(1, 900), st.integers(0, 400)), min_size=1, max_size=6
)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.data())
def test_blocks_in_use_are_the_planned_ones(requests: list[tuple], data: st.DataObject) -> None:  # type: ignore[type-arg]
    held = manager()
    pool = held.block_pool
    computed = dict.fromkeys(range(len(requests)), 0)
    expected = dict.fromkeys(computed, 0)
    for index, (asked, prompt, _) in enumerate(requests):
        if (plan := make_plan(prompt, asked, BLOCK)) is not None:
            held.plans[str(index)] = plan
    for _ in range(60):
        index = data.draw(st.sampled_from(sorted(computed)))
        key, plan, total = str(index), held.plans.get(str(index)), sum(requests[index][1:])
        if computed[index] >= total or data.draw(st.integers(0, 20)) == 0:  # ended, aborted or preempted
            held.free(key)
            computed[index] = expected[index] = 0
            continue
        step = min(data.draw(st.integers(1, 300)), total - computed[index])
        if plan is not None and (following := plan.after(computed[index])) is not None:
            step = min(step, following.at - computed[index])
        held.remove_skipped_blocks(key, computed[index])
        skip = plan.skip(computed[index]) if plan is not None else 0
        computed[index] += step
        held.allocate_new_blocks(key, computed[index], computed[index])
        expected[index] = -(-computed[index] // BLOCK) - skip
        if plan is not None:
            assert expected[index] <= plan.most_blocks(computed[index])
        assert pool.num_gpu_blocks - 1 - pool.get_num_free_blocks() == sum(expected.values())
    for index in computed:
        held.free(str(index))
    assert pool.num_gpu_blocks - 1 == pool.get_num_free_blocks()
