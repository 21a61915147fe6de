"""The process environment vLLM reads when it is imported; to be set before that, and inherited by engines."""

import os
from collections.abc import Iterable

from decoders.engine_process import MARK


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def variables(
    engines: int,
    threads_per_engine: int | None,
    vllm_log_level: str,
    stop_strings: int,
    processors: bool = False,
) -> dict[str, str]:
    """What vLLM is told: the cores shared out among the engines, no telemetry, a quiet log.

    Without the first three, two engines on two cores spin against each other: one job took 640 ms where it
    takes 34 ms with them.
    """
    threads = threads_per_engine or max(1, cores() // max(1, engines))
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # On a CPU this lets the engine core run its worker itself, one process less for each engine.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": vllm_log_level.upper(),
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker:UserWarning",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "VLLM_MAX_STOP_STRINGS": str(stop_strings),
        "TOKENIZERS_PARALLELISM": "false",
        MARK: "1",
        # Logits processors of ours are for vLLM's first model runner; the second, CUDA's default, has others.
        **({"VLLM_USE_V2_MODEL_RUNNER": "0"} if processors else {}),
    }


def prepare(
    engines: int,
    threads_per_engine: int | None,
    vllm_log_level: str,
    stop_strings: int,
    processors: bool = False,
    chosen: Iterable[str] = (),
) -> None:
    """Set the variables in this process.

    What the environment has already is left as it is, except for the variables in `chosen`: those the
    operator set through Decant, which must not lose to what a container or a shell happens to hold.
    """
    for name, value in variables(
        engines, threads_per_engine, vllm_log_level, stop_strings, processors
    ).items():
        if name in chosen:
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
