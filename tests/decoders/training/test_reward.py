"""Training a guide: the loss, a short run, checkpoints, LoRA, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from decoders.training.pairs import PairDataset, collate, read_pairs
from decoders.training.reward import answer_logprobs, end_tokens, merge_adapter, preference_loss, train
from decoders.training.settings import RewardSettings
from server import embedded
from server.cli import main

SMALL = str(embedded.path("small"))
PLACES = ("hotel", "park", "market", "museum")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    pairs = [
        {
            "prompt": f"Write a review of the {PLACES[i % 4]}.",
            "chosen": f"The {PLACES[i % 4]} was lovely. Thank you very much, we loved it."
            + " Thank you." * (i % 3),
            "rejected": f"The {PLACES[i % 4]} was cold. Shame on you, give us our money back."
            + " Shame." * (i % 3),
        }
        for i in range(48)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def settings(data: Path, out: Path, **more: Any) -> RewardSettings:
    given = {"steps": 12, "held_out": 12, "learning_rate": 5e-4, "warmup_steps": 2, "save_steps": 6}
    return RewardSettings(model=SMALL, data=data, out=out, **{**given, **more})


def test_the_loss_is_the_papers() -> None:
    logprobs = torch.tensor([[-10.0, -20.0], [-12.0, -16.0]])
    wanted = sum(math.log(1 + math.exp(-0.05 * margin)) for margin in (2.0, -4.0)) / 2
    assert preference_loss(logprobs, 0.05).item() == pytest.approx(wanted, rel=1e-6)


def test_logprobs_are_sums_over_the_answer_alone(data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMALL)
    model = AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32).eval()
    dataset = PairDataset(read_pairs(data)[:2], tokenizer, 256)
    with torch.no_grad():
        batched = answer_logprobs(model, collate([dataset[0], dataset[1]], pad=0))
        for i in (0, 1):
            for side in (0, 1):
                ids, prompt = torch.tensor([dataset[i].ids[side]]), dataset[i].prompt[side]
                rows = model(ids).logits[0].double().log_softmax(-1)
                wanted = sum(float(rows[at - 1, ids[0, at]]) for at in range(prompt, ids.shape[1]))
                assert batched[side, i].item() == pytest.approx(wanted, abs=1e-3)


def test_a_short_run_learns_to_tell_the_pairs_apart_and_can_be_resumed(data: Path, tmp_path: Path) -> None:
    before = train(settings(data, tmp_path / "none", steps=1, learning_rate=1e-9))
    whole = train(settings(data, tmp_path / "whole"))
    assert whole["margin"] > before["margin"] + 1
    assert whole["pair_accuracy"] > 0.9
    # Stopped half way and gone on from there: the same steps, so the same model.
    train(settings(data, tmp_path / "half"))
    for file in (tmp_path / "half").glob("*.safetensors"):
        file.unlink()
    last = tmp_path / "half" / "checkpoints" / "checkpoint-12"
    last.rename(tmp_path / "gone")
    resumed = train(settings(data, tmp_path / "half", resume=True))
    assert resumed["margin"] == pytest.approx(whole["margin"], rel=1e-3)


def test_resuming_needs_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(settings(data, tmp_path / "new", resume=True))


def test_another_runs_checkpoints_are_not_mixed_with_this_ones(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path, steps=2, save_steps=1))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(FileExistsError, match=rf"out: {tmp_path}.*--resume.*another folder"):
        train(settings(data, tmp_path, steps=1))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("held_out", [48, 100])
def test_pairs_to_train_on_must_be_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], held_out: int
) -> None:
    flags = ["--data", str(data), "--out", str(tmp_path), "--held-out", str(held_out)]
    with pytest.raises(SystemExit) as ended:
        main(["train-reward", "--model", "./no/such/model", *flags])  # which is not asked for yet
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"held_out: {held_out} pairs are to be held out of the 48" in said


def test_the_tokens_that_end_an_answer_are_the_engines() -> None:
    wanted: list[tuple[Any, list[int]]] = [([2, 5], [2, 5]), (2, [2]), (None, [])]
    assert [end_tokens(GenerationConfig(eos_token_id=given)) for given, _ in wanted] == [w for _, w in wanted]
    assert end_tokens(None) == []


def test_a_lora_is_written_merged_and_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    figures = train(settings(data, out, lora_rank=4, learning_rate=5e-3))
    assert figures["pair_accuracy"] > 0.9
    merge_adapter(out / "adapter", tmp_path / "merged")
    mine, again = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "merged"))
    original = load_file(Path(SMALL) / "model.safetensors")
    assert mine.keys() == again.keys() == original.keys()
    assert all(torch.allclose(mine[name].float(), again[name].float(), atol=2e-3, rtol=1e-2) for name in mine)
    assert any(not torch.equal(mine[name].float(), original[name].float()) for name in mine)


def test_the_command_trains_and_says_what_came_of_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", SMALL, "--data", str(data), "--out", str(tmp_path), "--steps", "2", "--held-out", "8"]
    with pytest.raises(SystemExit) as ended:
        main(["train-reward", *flags])
    assert ended.value.code == 0
    assert "pair_accuracy" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (["--beta", "0"], 2, "beta"),
        (["--data", "/nothing.jsonl"], 2, "data"),
        (["--dtype", "int8"], 2, "dtype"),
        (["--model", "./no/such/model"], 1, "no/such/model"),
    ],
)
def test_bad_flags_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, says: str
) -> None:
    good = {"--model": SMALL, "--data": str(data), "--out": str(tmp_path), "--held-out": "8"}
    good |= {flags[0]: flags[1]}
    with pytest.raises(SystemExit) as ended:
        main(["train-reward", *(part for pair in good.items() for part in pair)])
    assert ended.value.code == status
    assert says in capsys.readouterr().err
