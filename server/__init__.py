"""Decant's HTTP service: OpenAI's API over vLLM engines, with decoding methods."""

from importlib.metadata import version

__version__ = version("decant")
