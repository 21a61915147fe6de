"""Preference pairs: a JSONL file of prompts with a chosen and a rejected answer, as token ids."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.utils.data import Dataset

FIELDS = {"prompt", "chosen", "rejected"}


class DataError(ValueError):
    """A line of the data cannot be used; the message names the file, the line and the field."""


@dataclass(frozen=True)
class Pair:
    """prompt: text, or a conversation as a list of messages; chosen and rejected: answers to it.

    where: file and line, for errors.
    """

    prompt: str | list[dict[str, str]]
    chosen: str
    rejected: str
    where: str = field(default="a pair", compare=False)


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer, `[chosen, rejected]`, and how many of them are the prompt's."""

    ids: tuple[list[int], list[int]]
    prompt: tuple[int, int]


def read_pairs(path: Path) -> list[Pair]:
    """Every pair of a JSONL file. Raises DataError for a line that is none, or a file without any."""
    pairs = [_pair(path, number, line) for number, line in _lines(path)]
    if not pairs:
        raise DataError(f"{path} holds no pairs")
    return pairs


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _pair(path: Path, number: int, line: str) -> Pair:
    where = f"{path}, line {number}"
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(raw, dict) or set(raw) != FIELDS:
        given = ", ".join(sorted(map(str, raw))) if isinstance(raw, dict) else type(raw).__name__
        raise DataError(
            f"{where}: an object with prompt, chosen and rejected is needed, not {given or 'an empty one'}"
        )
    for name in ("chosen", "rejected"):
        if not isinstance(raw[name], str) or not raw[name]:
            raise DataError(f"{where}: {name} must be text, and not empty")
    if raw["chosen"] == raw["rejected"]:
        raise DataError(f"{where}: chosen and rejected are the same")
    if not _is_prompt(raw["prompt"]):
        raise DataError(f"{where}: prompt must be text, or a list of messages with role and content")
    return Pair(**raw, where=where)


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(
            isinstance(one, Mapping)
            and set(one) == {"role", "content"}
            and all(isinstance(v, str) for v in one.values())
            for one in prompt
        )
    )


class PairDataset(Dataset[Encoded]):
    """Pairs as a model reads them: through the tokenizer's chat template where it has one.

    max_tokens: the longest prompt and answer together; longer prompts lose their beginning, and a pair whose
    answer alone is too long, or that the template does not take, raises DataError. ends: tokens that end an
    engine's answer, beside the tokenizer's EOS.
    """

    def __init__(
        self, pairs: Sequence[Pair], tokenizer: Any, max_tokens: int, ends: Iterable[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.ends = {*ends, tokenizer.eos_token_id}
        self.items = [self._encode(pair, max_tokens) for pair in pairs]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Encoded:
        return self.items[index]

    def _encode(self, pair: Pair, max_tokens: int) -> Encoded:
        try:
            prompt = self._prompt(pair.prompt)
            both = [self._answer(pair.prompt, prompt, answer) for answer in (pair.chosen, pair.rejected)]
        except (DataError, TemplateError) as error:
            raise DataError(f"{pair.where}: prompt: {error}") from None
        longest = max(len(answer) for answer in both)
        if longest >= max_tokens:
            raise DataError(
                f"{pair.where}: an answer of {longest} tokens leaves its prompt no room in {max_tokens}"
            )
        kept = prompt[-(max_tokens - longest) :]
        return Encoded((kept + both[0], kept + both[1]), (len(kept), len(kept)))

    def _messages(self, prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    def _prompt(self, prompt: str | list[dict[str, str]]) -> list[int]:
        if self.tokenizer.chat_template:
            return self._template(self._messages(prompt), add_generation_prompt=True)
        if not isinstance(prompt, str):
            raise DataError("the tokenizer has no chat template, so prompts must be text")
        return list(self.tokenizer(prompt)["input_ids"])

    def _answer(self, prompt: str | list[dict[str, str]], ids: list[int], answer: str) -> list[int]:
        """The answer's tokens with what ends a turn: what an engine would have to sample."""
        if self.tokenizer.chat_template:
            whole = self._template([*self._messages(prompt), {"role": "assistant", "content": answer}])
            if whole[: len(ids)] == ids and len(whole) > len(ids):
                return self._to_the_end(whole[len(ids) :])
        tokens = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return [*tokens, self.tokenizer.eos_token_id]

    def _to_the_end(self, answer: list[int]) -> list[int]:
        """Without what the template writes after the end of the turn: an engine stops there."""
        ended = next((i for i in range(len(answer), 0, -1) if answer[i - 1] in self.ends), len(answer))
        return answer[:ended]

    def _template(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def collate(items: Sequence[Encoded], pad: int) -> dict[str, Tensor]:
    """Batch of pairs: input_ids, attention_mask, answer (bool): each `[2 * pairs, tokens]`, chosen first."""
    rows = [(item.ids[side], item.prompt[side]) for side in (0, 1) for item in items]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    answer = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, (row, prompt) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        answer[i, prompt : len(row)] = True
    return {"input_ids": ids, "attention_mask": mask, "answer": answer}
