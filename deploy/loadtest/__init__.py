"""The load test: Decant against vLLM's own server."""
