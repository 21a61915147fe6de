"""vLLM's GPU worker with compression hooked in."""

from vllm.v1.worker.gpu_worker import Worker

from decoders.cache.worker import Compressing


class CompressingWorker(Compressing, Worker):
    """Selected by the engine argument `worker_cls`."""
