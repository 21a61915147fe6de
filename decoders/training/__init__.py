"""Training guides. Needs the extra `train` (transformers' Trainer with accelerate, and peft for LoRA)."""
