"""Trains an autoregressive reward model: a guide for `genarm`."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from decoders.training.pairs import DataError, Pair, PairDataset, collate, read_pairs
from decoders.training.settings import RewardSettings


def answer_logprobs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """log pi(answer | prompt), summed over the answer's tokens, in nats: `[2, pairs]`, chosen first."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets, answer = batch["input_ids"][:, 1:], batch["answer"][:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return -(nats.view_as(targets) * answer).sum(1).view(2, -1)


def preference_loss(logprobs: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (log pi(chosen) - log pi(rejected))), mean over pairs (GenARM, arXiv 2410.08193, eq.
    5).

    logprobs: `[2, pairs]` in nats: sums over tokens, not means, and no reference model.
    """
    return -F.logsigmoid(beta * (logprobs[0] - logprobs[1])).mean()


class RewardTrainer(Trainer):
    """transformers' Trainer with GenARM's loss; evaluation reports pair_accuracy."""

    beta: float

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        logprobs = answer_logprobs(model, inputs)
        loss = preference_loss(logprobs, self.beta)
        return (loss, {"margin": (logprobs[0] - logprobs[1]).detach()}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        margin = outputs["margin"]
        return loss.detach(), margin, torch.ones_like(margin)


def pair_accuracy(prediction: Any) -> dict[str, float]:
    """Share of pairs whose chosen answer is the more probable one, and the mean margin in nats."""
    return {
        "pair_accuracy": float((prediction.predictions > 0).mean()),
        "margin": float(prediction.predictions.mean()),
    }


def train(settings: RewardSettings) -> dict[str, float]:
    """Train, write the model to `settings.out`, and return the evaluation's figures.

    Raises DataError for data that cannot be used, FileExistsError and FileNotFoundError for checkpoints that
    are there without `resume` or not there with it, and what transformers raises for a model that cannot be
    read.
    """
    checkpoint = _checkpoint(settings)
    trained, held_out = _split(settings)
    set_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype))
    encode = partial(
        PairDataset,
        tokenizer=tokenizer,
        max_tokens=settings.max_tokens,
        ends=end_tokens(model.generation_config),
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = RewardTrainer(
        model=_with_lora(model, settings) if settings.lora_rank else model,
        args=_arguments(settings),
        train_dataset=encode(trained),
        eval_dataset=encode(held_out) if held_out else None,
        data_collator=partial(collate, pad=pad),
        compute_metrics=pair_accuracy,
    )
    trainer.beta = settings.beta
    trainer.train(resume_from_checkpoint=checkpoint)
    figures = trainer.evaluate() if held_out else {}
    _write(trainer, tokenizer, settings)
    return {name.removeprefix("eval_"): value for name, value in figures.items() if isinstance(value, float)}


def _with_lora(model: Any, settings: RewardSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear")
    return get_peft_model(model, config)


def _arguments(settings: RewardSettings) -> TrainingArguments:
    every = settings.save_steps
    return TrainingArguments(
        output_dir=str(settings.out / "checkpoints"),
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="cosine",
        logging_steps=max(1, every // 10),
        save_steps=every,
        save_total_limit=2,
        eval_strategy="no",
        seed=settings.seed,
        remove_unused_columns=False,
        report_to=[],
        bf16=settings.dtype == "bfloat16" and torch.cuda.is_available(),
    )


def _checkpoint(settings: RewardSettings) -> str | None:
    """Where to go on from. Another run's checkpoints would be taken for this one's, and counted with them."""
    folder = settings.out / "checkpoints"
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not settings.resume and found:
        raise FileExistsError(
            f"out: {folder} holds another run's checkpoints; "
            "go on from them with --resume, or choose another folder"
        )
    if settings.resume and not found:
        raise FileNotFoundError(f"resume: there is no checkpoint in {folder}")
    return str(found[-1]) if found else None


def _split(settings: RewardSettings) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and those to evaluate on."""
    pairs = read_pairs(settings.data)
    if settings.eval_data:
        return pairs, read_pairs(settings.eval_data)
    if len(pairs) <= settings.held_out:
        raise DataError(
            f"held_out: {settings.held_out} pairs are to be held out of the {len(pairs)} in {settings.data}, "
            "which leaves none to train on; lower it, or give eval_data"
        )
    return pairs[settings.held_out :], pairs[: settings.held_out]


def end_tokens(config: Any) -> list[int]:
    """The tokens that end an answer, by the model's generation_config."""
    found = config.eos_token_id if config is not None else None
    return found if isinstance(found, list) else [] if found is None else [found]


def _write(trainer: RewardTrainer, tokenizer: Any, settings: RewardSettings) -> None:
    """The whole model, as an engine loads it; of a LoRA also the adapter alone."""
    model: Any = trainer.model
    if settings.lora_rank:
        model.save_pretrained(str(settings.out / "adapter"))
        model = model.merge_and_unload()
    model.save_pretrained(str(settings.out))
    tokenizer.save_pretrained(str(settings.out))


def merge_adapter(adapter: Path, out: Path, model: str | None = None) -> None:
    """Write a PEFT adapter merged into its base, as a guide for `serve`, in the base's dtype.

    model: where the base lies, if not where the adapter says.
    """
    from peft import PeftConfig, PeftModel

    base = model or str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    dtype = loaded.dtype
    merged = PeftModel.from_pretrained(loaded.float(), str(adapter)).merge_and_unload()
    merged.to(dtype).save_pretrained(str(out))
    AutoTokenizer.from_pretrained(base).save_pretrained(str(out))
