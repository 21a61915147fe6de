"""vLLM's CPU worker with compression hooked in."""

from vllm.v1.worker.cpu_worker import CPUWorker

from decoders.cache.worker import Compressing


class CompressingWorker(Compressing, CPUWorker):
    """Selected by the engine argument `worker_cls`."""
