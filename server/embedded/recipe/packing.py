"""From documents to training rows: token ids with loss weights, packed into rows of one length."""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .documents import KINDS, Mix
from .prompts import NO, YES
from .segments import Document, Segment
from .tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER, token_id

PROMPT_WEIGHT: Final = 0.1
VERDICT_WEIGHT: Final = 8.0
BATCH_OF_DOCUMENTS: Final = 64
LOOKAHEAD: Final = 64


@dataclass
class Encoded:
    """A document as token ids and loss weights, [tokens] each; the weight stands at the token it is about."""

    ids: list[int]
    weights: list[float]

    def append(self, ids: list[int], weight: float) -> None:
        """Add tokens of one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)


class Encoder:
    """Turns documents into ids and loss weights.

    Answers and plain text weigh 1, prompts `prompt_weight`. A verdict weighs 8: it is one token in twenty and
    is learned last. The tokens that open a turn weigh 0, because at inference the caller writes them; so do
    prefilled cues, or the assistant would begin to write them by itself.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_weight: float = PROMPT_WEIGHT) -> None:
        self.tokenizer = tokenizer
        self.prompt_weight = prompt_weight
        names = (BOS, EOS, USER, ASSISTANT, SYSTEM)
        self.special: dict[str, int] = {name: token_id(tokenizer, name) for name in names}

    def encode(self, documents: list[Document]) -> list[Encoded]:
        """Encode documents, all texts in one call of the tokenizer."""
        texts = [
            text for document in documents for segment in document for text in (segment.prefix, segment.text)
        ]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = iter([encoding.ids for encoding in encodings])
        encoded = []
        for document in documents:
            row = Encoded([self.special[BOS]], [0.0])
            for segment in document:
                self._add(row, segment, next(ids), next(ids))
            if document[-1].role != "assistant":
                row.append([self.special[EOS]], 1.0)
            encoded.append(row)
        return encoded

    def _add(self, row: Encoded, segment: Segment, prefix: list[int], text: list[int]) -> None:
        match segment.role:
            case "system" | "user":
                opening = USER if segment.role == "user" else SYSTEM
                row.append([self.special[opening], *text], self.prompt_weight)
            case "given":
                row.append(text, self.prompt_weight)
            case "assistant":
                row.append([self.special[ASSISTANT]], 0.0)
                row.append(prefix, 0.0)
                row.append(text, _answer_weight(segment))
                row.append([self.special[EOS]], 1.0)
            case _:
                row.append(text, _answer_weight(segment))


def _answer_weight(segment: Segment) -> float:
    return VERDICT_WEIGHT if segment.text in (YES, NO) else 1.0


@dataclass(frozen=True)
class Rows:
    """Training rows: ids and weights, [rows, length + 1] each."""

    ids: npt.NDArray[np.int16]
    weights: npt.NDArray[np.float16]


def draw_documents(encoder: Encoder, mix: Mix, tokens: int, rng: Random) -> list[Encoded]:
    """Draw shuffled documents whose kinds have the shares of `mix` in about `tokens` tokens."""
    documents: list[Encoded] = []
    for name, share in mix.items():
        drawn = 0
        while drawn < share * tokens:
            batch = encoder.encode([KINDS[name](rng) for _ in range(BATCH_OF_DOCUMENTS)])
            documents += batch
            drawn += sum(len(document.ids) for document in batch)
    rng.shuffle(documents)
    return documents


def _next_document(waiting: deque[Encoded], room: int) -> Encoded:
    """Take the first of the next documents that fits into `room` tokens, or the very first if none does."""
    for index, document in enumerate(islice(waiting, LOOKAHEAD)):
        if len(document.ids) <= room:
            del waiting[index]
            return document
    return waiting.popleft()


def pack(documents: list[Encoded], length: int) -> Rows:
    """Fill rows with whole documents as far as they fit; the last one of a row is cut off.

    The longest-waiting document opens a row, so that long texts are seldom cut before their questions.
    """
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    row = Encoded([], [])
    waiting = deque(documents)
    while waiting:
        document = _next_document(waiting, length + 1 - len(row.ids))
        row.ids += document.ids
        row.weights += document.weights
        if len(row.ids) > length:
            ids.append(row.ids[: length + 1])
            weights.append(row.weights[: length + 1])
            row = Encoded([], [])
    return Rows(np.array(ids, np.int16), np.array(weights, np.float16))


def training_rows(tokenizer: Tokenizer, length: int, mix: Mix, tokens: int, seed: int) -> Rows:
    """Rows of `length` tokens to predict, about `tokens` in all, from a seed."""
    rng = Random(f"rows {seed} {length}")
    return pack(draw_documents(Encoder(tokenizer), mix, tokens, rng), length)


def token_count(rows: Rows) -> int:
    """Tokens trained on."""
    return int(rows.ids.shape[0] * (rows.ids.shape[1] - 1))
