"""The engine option `speculative`: how drafts are made, and whether they are governed.

Fields that are vLLM's keep vLLM's names and meaning (`SpeculativeConfig`) and are passed through.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DRAFTS = 128  # vLLM's bound on the tokens of one draft
Tokens = Annotated[int, Field(ge=1, le=DRAFTS)]


class Speculation(BaseModel):
    """What all methods have in common."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    own: ClassVar[frozenset[str]] = frozenset({"governor"})  # fields that are not vLLM's

    method: str
    governor: bool = Field(
        default=True,
        description="Measure tokens per second with and without drafts, and do without while drafts lose.",
    )

    def draft_model(self) -> str | None:
        """The model that drafts; None if the method needs none."""
        return getattr(self, "model", None)

    def shares_vocabulary(self) -> bool:
        """Whether the draft model must have the engine's tokenizer."""
        return False

    def vllm_settings(self) -> dict[str, Any]:
        """What vLLM's `speculative_config` gets of these settings."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(self.own))


class Ngram(Speculation):
    """Drafts what followed the last n tokens earlier in the prompt or answer (prompt lookup)."""

    method: Literal["ngram"]
    num_speculative_tokens: Tokens = Field(default=4, description="Most tokens of a draft.")
    prompt_lookup_min: int = Field(default=2, ge=1, description="Fewest tokens that must match.")
    prompt_lookup_max: int = Field(default=4, ge=1, description="Most tokens that are matched.")

    @model_validator(mode="after")
    def _ordered(self) -> "Ngram":
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError("prompt_lookup_min must be at most prompt_lookup_max")
        return self


class Suffix(Speculation):
    """Drafts from suffix trees over prompts and answers (arXiv 2411.04975); needs arctic-inference."""

    method: Literal["suffix"]
    num_speculative_tokens: Tokens = Field(default=24, description="Most tokens of a draft.")
    suffix_decoding_max_tree_depth: int | None = Field(default=None, ge=1)
    suffix_decoding_max_cached_requests: int | None = Field(default=None, ge=0)
    suffix_decoding_max_spec_factor: float | None = Field(default=None, ge=0)
    suffix_decoding_min_token_prob: float | None = Field(default=None, ge=0, le=1)


class DraftingModel(Speculation):
    """What the methods with a model of their own have in common."""

    model: str = Field(min_length=1, description="Hugging Face id, local path, or embedded:NAME.")
    draft_sample_method: Literal["greedy", "probabilistic"] = Field(
        default="greedy",
        description="greedy drafts the likeliest token; probabilistic samples, and is accepted more often "
        "where answers are sampled.",
    )
    draft_tensor_parallel_size: int | None = Field(default=None, ge=1)
    quantization: str | None = None
    attention_backend: str | None = None
    kv_cache_dtype: str | None = None
    enforce_eager: bool | None = None
    revision: str | None = None
    code_revision: str | None = None


class DraftModel(DraftingModel):
    """A small model with the same tokenizer drafts (arXiv 2211.17192, 2302.01318)."""

    method: Literal["draft_model"]
    num_speculative_tokens: Tokens = Field(default=4, description="Tokens of a draft.")

    def shares_vocabulary(self) -> bool:
        return True


class Eagle(DraftingModel):
    """A head over the model's hidden states drafts (EAGLE, arXiv 2401.15077)."""

    method: Literal["eagle"]
    num_speculative_tokens: Tokens = Field(default=4, description="Tokens of a draft.")


class Eagle3(DraftingModel):
    """A head over hidden states of several layers drafts (EAGLE-3, arXiv 2503.01840)."""

    method: Literal["eagle3"]
    num_speculative_tokens: Tokens = Field(default=4, description="Tokens of a draft.")


class AdaptiveDraft(DraftingModel):
    """A draft model that stops when its entropy says that the next token will be refused (AdaEDL).

    Before each token the draft's entropy H (nats) bounds its acceptance from below by 1 - sqrt(gamma H)
    (arXiv 2410.18351); where the bound is under `stop`, the row's draft ends.
    """

    own: ClassVar[frozenset[str]] = frozenset(
        {"governor", "max_draft_tokens", "gamma", "stop", "adapt", "target_acceptance"}
    )

    method: Literal["adaptive_draft"]
    max_draft_tokens: Tokens = Field(default=8, description="Most tokens of a draft.")
    gamma: float = Field(default=0.2, gt=0, le=100, description="Factor of the entropy; 0.2 in the paper.")
    stop: float = Field(
        default=0.3, ge=0, le=1, description="A draft ends where the bound is under this; where it begins."
    )
    adapt: bool = Field(
        default=True, description="Move `stop` while serving so that target_acceptance is met."
    )
    target_acceptance: float = Field(
        default=0.8, gt=0, lt=1, description="Share of the drafted tokens that should be accepted."
    )
    draft_sample_method: Literal["greedy", "probabilistic"] = Field(
        default="probabilistic",
        description="The bound is for drafts that are sampled; greedy takes the likeliest.",
    )

    def shares_vocabulary(self) -> bool:
        return True

    def vllm_settings(self) -> dict[str, Any]:
        return {
            **super().vllm_settings(),
            "method": "draft_model",
            "num_speculative_tokens": self.max_draft_tokens,
        }


SpeculativeSettings = Annotated[
    Ngram | Suffix | DraftModel | Eagle | Eagle3 | AdaptiveDraft, Field(discriminator="method")
]
