"""Preference data: what is read, how it is encoded, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from decoders.training.pairs import DataError, Pair, PairDataset, collate, read_pairs
from server import embedded

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.path("base"))


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    chat = [{"role": "user", "content": "hello"}]
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "prompt": chat}) + "\n", encoding="utf-8")
    assert read_pairs(path) == [Pair("p", "c", "r"), Pair(chat, "c", "r")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: an object"),
        (json.dumps({"prompt": "p", "chosen": "c"}), "line 2: an object with prompt, chosen and rejected"),
        (json.dumps({**GOOD, "more": 1}), "line 2: an object"),
        (json.dumps({**GOOD, "chosen": ""}), "line 2: chosen"),
        (json.dumps({**GOOD, "rejected": 3}), "line 2: rejected"),
        (json.dumps({**GOOD, "rejected": "c"}), "the same"),
        (json.dumps({**GOOD, "prompt": ""}), "line 2: prompt"),
        (json.dumps({**GOOD, "prompt": [{"role": "user"}]}), "line 2: prompt"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=says):
        read_pairs(path)


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "nothing")


def test_answers_are_what_an_engine_samples_after_the_prompt(tokenizer: Any) -> None:
    pair = Pair("What is the capital of Tovand?", "It is Vamburg.", "No.")
    encoded = PairDataset([pair], tokenizer, 256)[0]
    wanted = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair.prompt}], tokenize=False, add_generation_prompt=True
    )
    for side, answer in enumerate((pair.chosen, pair.rejected)):
        ids, prompt = encoded.ids[side], encoded.prompt[side]
        assert tokenizer.decode(ids[:prompt]) == wanted
        said = tokenizer.decode(ids[prompt:])
        assert said.strip().startswith(answer)
        assert said.strip() != answer  # the end of the turn belongs to it


def test_long_prompts_lose_their_beginning_and_answers_nothing(tokenizer: Any) -> None:
    pair = Pair("word " * 200, "A short answer.", "Another one.")
    whole = PairDataset([pair], tokenizer, 1024)[0]
    cut = PairDataset([pair], tokenizer, 64)[0]
    for side in (0, 1):
        assert len(cut.ids[side]) <= 64
        assert cut.ids[side][cut.prompt[side] :] == whole.ids[side][whole.prompt[side] :]
        assert whole.ids[side][: whole.prompt[side]][-cut.prompt[side] :] == cut.ids[side][: cut.prompt[side]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"chosen": "long " * 80}, "no room in 32"),
        ({"prompt": [{"role": "robot", "content": "hello"}]}, "prompt: unknown role"),
    ],
)
def test_a_pair_that_cannot_be_encoded_is_named(
    tmp_path: Path, tokenizer: Any, wrong: dict[str, Any], says: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [GOOD, GOOD, {**GOOD, **wrong}]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    pairs = read_pairs(path)[1:]
    with pytest.raises(DataError, match=rf"{path}, line 5: .*{says}"):
        PairDataset(pairs, tokenizer, 32)


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    plain = AutoTokenizer.from_pretrained(embedded.path("base"))
    plain.chat_template = None
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({**GOOD, "prompt": [{"role": "user", "content": "p"}]}), encoding="utf-8")
    with pytest.raises(DataError, match="line 1: prompt: the tokenizer has no chat template"):
        PairDataset(read_pairs(path), plain, 32)


@pytest.mark.parametrize(("end", "ends"), [("</s>", ()), ("<|system|>", ("<|system|>",))])
def test_nothing_after_the_end_of_the_turn_is_scored(end: str, ends: tuple[str, ...]) -> None:
    """ChatML's templates write a line break there, which no engine ever samples."""
    tokenizer = AutoTokenizer.from_pretrained(embedded.path("base"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '" + end + "' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    ids = [tokenizer.convert_tokens_to_ids(one) for one in ends]
    encoded = PairDataset([Pair("hello", "hi there", "go away")], tokenizer, 64, ids)[0]
    for side, answer in enumerate(("hi there", "go away")):
        assert tokenizer.decode(encoded.ids[side][encoded.prompt[side] :]) == answer + end


def test_batches_are_padded_and_know_their_answers(tokenizer: Any) -> None:
    pairs = [Pair("one", "a b c", "d"), Pair("two two two", "e", "f g")]
    dataset = PairDataset(pairs, tokenizer, 64)
    batch = collate([dataset[0], dataset[1]], pad=0)
    assert batch["input_ids"].shape == batch["answer"].shape == batch["attention_mask"].shape
    rows = [(dataset[i], side) for side in (0, 1) for i in (0, 1)]
    for row, (item, side) in enumerate(rows):
        length = len(item.ids[side])
        assert batch["input_ids"][row, :length].tolist() == item.ids[side]
        assert batch["attention_mask"][row].sum() == length
        assert torch.equal(batch["answer"][row].nonzero()[:, 0], torch.arange(item.prompt[side], length))
