"""Decoding methods in three layers: `sequence`, `logits`, `cache`. This package knows no HTTP."""
