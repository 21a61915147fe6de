"""Ending a segment of an answer inside the engine, when the entropy says so."""
