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
    """Per-token dicts as the arrays `[tokens, 1 + top]` an engine core sends.

    The first column is the sampled token, the others are the most likely ones in order of rank; vLLM gives
    column i the rank i, so the sampled token stands twice where it is among them.
    """
    columns = []
    for row in rows:
        sampled, first = next(iter(row.items()))
        ranked = sorted(row.items(), key=lambda item: item[1].rank or 0)
        top = [item for item in ranked if item[0] != sampled or (first.rank or 0) <= len(row)]
        columns.append([(sampled, first), *(top if len(row) > 1 or first.rank == 1 else [])])
    width = max(map(len, columns))
    ids: Any = np.zeros((len(rows), width), np.int32)
    values: Any = np.full((len(rows), width), -np.inf, np.float32)
    for i, column in enumerate(columns):
        padded = column + [column[0]] * (width - len(column))
        ids[i] = [token for token, _ in padded]
        values[i] = [logprob.logprob for _, logprob in padded]
    ranks = np.array([column[0][1].rank for column in columns], np.int32)
    return LogprobsLists(ids, values, ranks)
