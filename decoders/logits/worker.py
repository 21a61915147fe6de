"""What the server may ask a worker with guides by collective_rpc."""

from typing import Any


class GuideWorker:
    """Mixed into vLLM's worker class (`worker_extension_cls`)."""

    model_runner: Any

    def decant_take_outcome(self, key: str) -> list[dict[str, Any]]:
        """What guidance did for each choice of the request of this key, and forget it."""
        outcomes = self.model_runner.get_model().channel.outcomes.pop(key, [])
        return [one.to_wire() for one in outcomes]
