"""Digests of what the recipe makes the same bit for bit everywhere: the corpus and the tokenizer."""

from typing import Final

CORPUS_SHA256: Final = "1c76b3b7e159b566c464518cef80888e954658fd76a4724b662b822b3a2d576c"
TOKENIZER_SHA256: Final = "4fed355996fa21f261a55e064b13a2da8f4618470d5f80df6af53ca2dab5b367"
