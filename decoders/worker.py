"""Decant's half of a vLLM worker: what every layer's methods may ask it by collective_rpc."""

from decoders.logits.worker import GuideWorker
from decoders.sequence.switching.worker import SwitchWorker


class DecantWorker(GuideWorker, SwitchWorker):
    """Mixed into vLLM's worker class (`worker_extension_cls`) of an engine that can guide and switch."""
