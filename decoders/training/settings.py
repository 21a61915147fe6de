"""What `decant train-reward` and `decant merge-adapter` are told."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath


class RewardSettings(BaseModel):
    """Train an autoregressive reward model (GenARM) from preference pairs: a guide for genarm."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(
        description="Model to start from: a folder or a Hugging Face id, with the served model's tokenizer."
    )
    data: FilePath = Field(description="JSONL; in each line prompt (text or messages), chosen, rejected.")
    out: Path = Field(description="Folder for the trained model and its checkpoints.")
    eval_data: FilePath | None = Field(
        default=None, description="JSONL to evaluate on; else pairs held out of the data."
    )
    held_out: int = Field(
        default=100, ge=0, description="Pairs at the data's beginning to evaluate on, not to train on."
    )
    beta: float = Field(
        default=0.05, gt=0, description="beta_r of the loss: 0.05 for HH-RLHF, 0.1 for UltraFeedback."
    )
    lora_rank: int = Field(
        default=0, ge=0, description="Rank of a LoRA on every linear layer; 0 trains all weights."
    )
    learning_rate: float = Field(
        default=5e-5, gt=0, description="Peak learning rate; LoRA likes ten times as much."
    )
    epochs: float = Field(default=1.0, gt=0, description="Passes over the data.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps, in place of epochs.")
    warmup_steps: int = Field(default=20, ge=0, description="Steps until the peak learning rate.")
    batch: int = Field(default=8, ge=1, description="Pairs at once on a device.")
    accumulate: int = Field(default=1, ge=1, description="Batches a step.")
    max_tokens: int = Field(
        default=1024, ge=8, description="Longest prompt and answer; longer prompts lose their beginning."
    )
    save_steps: int = Field(
        default=200, ge=1, description="Steps between checkpoints; the last two are kept."
    )
    resume: bool = Field(default=False, description="Go on from the last checkpoint in out.")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="Dtype of the weights.")
    seed: int = Field(default=0, ge=0, description="Seed of the order of pairs and of a LoRA's weights.")


class MergeSettings(BaseModel):
    """Merge a PEFT adapter into its base model, so that it can be served as a guide."""

    model_config = ConfigDict(extra="forbid")

    adapter: Path = Field(description="Folder with adapter_config.json.")
    out: Path = Field(description="Folder for the merged model.")
    model: str | None = Field(
        default=None, description="The base model, if it is not where the adapter says."
    )
