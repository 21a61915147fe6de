"""Speculative decoding: drafts that the model verifies, as an option of an engine."""
