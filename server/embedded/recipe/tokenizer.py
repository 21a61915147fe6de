"""The family's tokenizer and chat template: built, written and read back."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .documents import KINDS

PAD: Final = "<pad>"
BOS: Final = "<s>"
EOS: Final = "</s>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
SYSTEM: Final = "<|system|>"
SPECIAL_TOKENS: Final = (PAD, BOS, EOS, USER, ASSISTANT, SYSTEM)
MAX_VOCABULARY: Final = 1216
MAX_POSITIONS: Final = 2048
DOCUMENTS_PER_KIND: Final = 600

# Digits stand alone, so that sums are done digit by digit; words keep the space before them.
SPLIT_PATTERN: Final = r" ?[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9]|\s+"

CHAT_TEMPLATE_FILE: Final = Path(__file__).with_name("chat_template.jinja")


def _texts(seed: int) -> Iterator[str]:
    rng = Random(seed)
    for make in KINDS.values():
        for _ in range(DOCUMENTS_PER_KIND):
            for segment in make(rng):
                yield segment.prefix + segment.text


def build_tokenizer(seed: int = 0) -> Tokenizer:
    """Train the byte-level BPE on documents of every kind; the same bytes on every machine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, token_id(tokenizer, BOS))]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token.

    Raises:
        KeyError: the vocabulary lacks it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(f"the vocabulary lacks {token!r}")
    return int(found)


def serialized(tokenizer: Tokenizer) -> str:
    """The text of tokenizer.json."""
    return str(tokenizer.to_str(pretty=True)) + "\n"


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of tokenizer.json."""
    return hashlib.sha256(serialized(tokenizer).encode()).hexdigest()


def tokenizer_config() -> dict[str, object]:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "extra_special_tokens": [USER, ASSISTANT, SYSTEM],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "padding_side": "left",
    }


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(serialized(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE_FILE.read_text())


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
