"""Decant's scheduler: vLLM's, with what the layers' methods add to it."""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import SchedulerInterface

from decoders.prefix.scheduler import TailReuse
from decoders.sequence.switching.scheduler import MarkedEnds


class DecantScheduler(TailReuse, MarkedEnds):
    """For engines that read a step's tokens before they begin the next step."""


class AsyncDecantScheduler(TailReuse, AsyncScheduler):
    """For engines that are one step ahead."""


def scheduler(*, vllm_config: Any, **arguments: Any) -> SchedulerInterface:
    """What `scheduler_cls` names; which of the two it is, vLLM knows only once it has read all arguments."""
    chosen = AsyncDecantScheduler if vllm_config.scheduler_config.async_scheduling else DecantScheduler
    return chosen(vllm_config=vllm_config, **arguments)
