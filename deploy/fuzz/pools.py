"""KV pools written once, so that the memory they take counts before a run and not as growth in it.

An engine reserves its pool at the start, but the system counts a page only once it is written, and blocks are
taken in turn: every new prompt writes blocks that none has written before, until all of them were.
"""

import math
import random

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploy.fuzz.campaign import Target

LENGTH = 1900  # tokens of a prompt
TOKENS = range(300, 400)  # token ids that any vocabulary has


def pools(text: str) -> dict[str, int]:
    """Tokens that each engine's pool has room for, from its /metrics."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                room = int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"])
                found[sample.labels["decant_engine"]] = room
    return found


def fill(target: Target) -> None:
    """Have every engine write its whole pool. Errors: httpx's where the server does not answer."""
    headers = {"Authorization": f"Bearer {target.key}"}
    with httpx.Client(base_url=target.url, headers=headers, timeout=120, trust_env=False) as client:
        found = pools(client.get("/metrics").raise_for_status().text)
        chance = random.Random(0)
        for engine in target.engines:
            for _ in range(math.ceil(found[engine] / LENGTH) + 1):
                body = {
                    "model": target.models[0],
                    "prompt": [chance.choice(TOKENS) for _ in range(LENGTH)],
                    "max_tokens": 1,
                    "decoding": {"sequence": {"method": "plain", "engine": engine}},
                }
                client.post("/v1/completions", json=body).raise_for_status()
