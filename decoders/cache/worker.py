"""Where compression is hooked into vLLM's worker."""

from typing import Any

from decoders.cache.rows import Rows, share


class Compressing:
    """Mixed in before vLLM's worker class."""

    vllm_config: Any
    model_runner: Any
    rows: Rows

    def init_device(self) -> None:
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        super().init_device()  # type: ignore[misc]
        if not isinstance(self.model_runner, GPUModelRunner):
            raise RuntimeError("cache_methods need vLLM's first model runner: set VLLM_USE_V2_MODEL_RUNNER=0")
        self.rows = share(self.vllm_config, Rows(self.model_runner, self.vllm_config.cache_config))

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        from decoders.cache.backend import install

        super().load_model(*args, **kwargs)  # type: ignore[misc]
        install(self.vllm_config, self.rows)

    def decant_cache(self) -> dict[str, Any]:
        """What has been compressed since the last call, for the server's metrics."""
        return self.rows.measured.take()

    def decant_take_compressions(self, key: str) -> dict[str, Any] | None:
        """What was measured for the request of this report key, and forget it; None if nothing was."""
        return self.rows.measured.take_report(key)
