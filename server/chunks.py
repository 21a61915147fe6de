"""A method's chunk in the form an engine core's output has."""

from typing import Any

import numpy as np
from vllm.logprobs import Logprob
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists

from decoders.method import Chunk

FINISH_REASONS = {str(reason): reason for reason in FinishReason}


def core_output(request_id: str, chunk: Chunk) -> EngineCoreOutput:
    """The chunk as vLLM's OutputProcessor takes it."""
    prefill = None
    if chunk.num_cached_tokens is not None:
        prefill = PrefillStats(num_cached_tokens=chunk.num_cached_tokens)
    return EngineCoreOutput(
        request_id=request_id,
        new_token_ids=chunk.token_ids,
        prefill_stats=prefill,
        new_logprobs=logprobs_lists(chunk.logprobs) if chunk.logprobs else None,
        finish_reason=FINISH_REASONS[chunk.finish_reason] if chunk.finish_reason else None,
        stop_reason=chunk.stop_reason,
    )


def logprobs_lists(rows: list[dict[int, Logprob]]) -> LogprobsLists:
    """Per-token dicts, sampled token first, as the arrays `[tokens, width]` an engine core sends."""
    width = max(map(len, rows))
    ids: Any = np.zeros((len(rows), width), np.int32)
    values: Any = np.full((len(rows), width), -np.inf, np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = list(row)
        values[i, : len(row)] = [logprob.logprob for logprob in row.values()]
        ids[i, len(row) :] = ids[i, 0]
        values[i, len(row) :] = values[i, 0]
    ranks = np.array([next(iter(row.values())).rank for row in rows], np.int32)
    return LogprobsLists(ids, values, ranks)
