"""vLLM's CPU worker with speculation hooked in."""

from vllm.v1.worker.cpu_worker import CPUWorker

from decoders.speculative import cpu_sampling
from decoders.speculative.worker import Speculating


class SpeculatingWorker(Speculating, CPUWorker):
    """Selected by the engine argument `worker_cls`."""

    def init_device(self) -> None:
        cpu_sampling.register()
        super().init_device()
