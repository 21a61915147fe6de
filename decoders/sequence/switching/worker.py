"""What the server may ask a worker whose engine ends segments, by collective_rpc."""

from typing import Any

from decoders.sequence.switching.processor import EntropySwitch


class SwitchWorker:
    """Mixed into vLLM's worker class (`worker_extension_cls`)."""

    model_runner: Any

    def decant_entropies(self, key: str, start: int, stop: int, close: bool) -> list[float] | None:
        """Entropies in bits of a segment's tokens start to stop - 1, then forgotten if `close`.

        None if this worker does not know the segment. Without a trace only the last 64 are kept.
        """
        for processor in self.model_runner.input_batch.logitsprocs.all:
            if isinstance(processor, EntropySwitch):
                found = processor.segments.entropies(key, start, stop)
                if close:
                    processor.segments.close(key)
                return found
        return None
