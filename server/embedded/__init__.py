"""The embedded model family: four tiny Llama models that are part of the repository."""

from pathlib import Path

NAMES = ("base", "small", "polite", "brief")


def path(name: str) -> Path:
    """Return the Hugging Face model folder of the embedded model `name`.

    Raises:
        KeyError: `name` is not one of `NAMES`.
    """
    if name not in NAMES:
        raise KeyError(f"unknown embedded model {name!r}: choose one of {', '.join(NAMES)}")
    return Path(__file__).resolve().parent / name
