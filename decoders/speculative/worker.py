"""Where speculation is hooked into vLLM's worker."""

from typing import Any

from pydantic import TypeAdapter

from decoders.speculative.arguments import SETTINGS
from decoders.speculative.settings import AdaptiveDraft, DraftModel, SpeculativeSettings

_SETTINGS: TypeAdapter[Any] = TypeAdapter(SpeculativeSettings)


class Speculating:
    """Mixed in before vLLM's worker class."""

    vllm_config: Any
    model_runner: Any
    steps: Any = None

    def init_device(self) -> None:
        """Put our drafter and the hooks in place once the runner is there, before models are loaded."""
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        from decoders.speculative.adaptive_draft import AdaptiveDrafter
        from decoders.speculative.drafter import CatchingUp
        from decoders.speculative.steps import Steps

        super().init_device()  # type: ignore[misc]
        runner = self.model_runner
        if not isinstance(runner, GPUModelRunner):
            raise RuntimeError("speculative needs vLLM's first model runner: set VLLM_USE_V2_MODEL_RUNNER=0")
        settings = _SETTINGS.validate_python(self.vllm_config.additional_config[SETTINGS])
        if hasattr(runner, "drafter"):  # on the last pipeline rank only
            if isinstance(settings, AdaptiveDraft):
                runner.drafter = AdaptiveDrafter(settings, self.vllm_config, runner)
            elif isinstance(settings, DraftModel) and settings.governor:
                runner.drafter = CatchingUp(self.vllm_config, runner)
            self.steps = Steps(settings, runner)

    def decant_speculation(self) -> dict[str, Any]:
        """What the governor has measured and decided, for the server's metrics."""
        return {} if self.steps is None else self.steps.summary()
