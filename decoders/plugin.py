"""What Decant adds to every vLLM process: the entry point of the group `vllm.general_plugins`."""

import logging

import torch

from decoders import cpu_seeds, engine_process
from decoders.cache import engine as cache
from decoders.logits import engine as logits


def register() -> None:
    """Called by vLLM once in each process (server, engine core, worker).

    bf16 matrix products on a CPU with AMX raise SIGILL in a process that has not asked the kernel for the
    tile registers first; vLLM 0.32 does not ask. Nor do seeds survive a prompt computed in pieces there.
    """
    engine_process.settle()
    logits.register()
    cache.register()
    # torch.library notes at start that Triton is missing, which on a CPU it should be.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    if torch.cuda.is_available():
        return
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
    cpu_seeds.register()
