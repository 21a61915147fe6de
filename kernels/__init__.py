"""Native operators for decoding on logits, small games and KV pages. This layer knows no vLLM and no HTTP."""
