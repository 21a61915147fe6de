"""vLLM's GPU worker with speculation hooked in."""

from vllm.v1.worker.gpu_worker import Worker

from decoders.speculative.worker import Speculating


class SpeculatingWorker(Speculating, Worker):
    """Selected by the engine argument `worker_cls`."""
