"""Fuzzing: requests generated from the service's own OpenAPI document."""
