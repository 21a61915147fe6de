"""Which files a configured model means, and what can be known of it before an engine is started."""

import re
from pathlib import Path
from typing import Any

from server import embedded
from server.config import EMBEDDED, ConfigError

EMBEDDED_ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 64,
    "block_size": 32,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 << 20,
    # Models this small would go on with white space for ever where a grammar lets them.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


def locate(model: str) -> str:
    """The path of an embedded or local model; a hub id is returned as it is, for vLLM's own loader.

    Errors: ConfigError when it is none of these.
    """
    if model.startswith(EMBEDDED):
        try:
            return str(embedded.path(model.removeprefix(EMBEDDED)))
        except KeyError:
            raise ConfigError(f"model {model}: the embedded models are {', '.join(embedded.NAMES)}") from None
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model {model}: the folder holds no config.json, so it is no Hugging Face model"
            )
        return str(path)
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local or path.is_file() or not _HUB_ID.fullmatch(model):
        raise ConfigError(
            f"model {model}: no such folder; give a folder, a Hugging Face id, or {EMBEDDED}NAME"
        )
    return model


def weight_bytes(path: str) -> int:
    """Bytes of the model's weight files; 0 for a hub id that has not been fetched."""
    folder = Path(path)
    if not folder.is_dir():
        return 0
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if sizes := [file.stat().st_size for file in folder.glob(pattern)]:
            return sum(sizes)
    return 0
