"""What a compressed cache should say: Hugging Face's float32 model over caches compressed by plain loops.

Written from the papers and from the documentation of `decoders/cache`, not from its code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache


@dataclass(frozen=True)
class Event:
    """At `at` tokens the cache's first entries, but for the last `rest`, are compressed to `slots`.

    since: tokens that came after the event before.
    """

    at: int
    since: int
    rest: int
    slots: int


def up(tokens: int, block: int) -> int:
    return math.ceil(tokens / block) * block


def events(method: dict[str, Any], prompt: int, tokens: int, block: int) -> list[Event]:
    """When a request of this many tokens is compressed, and to what, walking token by token."""
    get = {"budget": 0.5, "recent": 64, "sinks": 4, "min_prompt": 128, "peak": 1.0, **method}.get
    budget, recent, sinks, peak = get("budget"), get("recent"), get("sinks"), get("peak")
    found: list[Event] = []
    region = (prompt - recent) // block * block
    final = up(max(int(budget * prompt) - (prompt - region), sinks + 1), block)
    merged_prompt = prompt >= get("min_prompt") and region > final
    room = max(up(int(peak * prompt), block), final + up(recent, block) + 4 * block)
    freed = border = 0  # tokens whose slots are free; the end of what was compressed last

    def compress(at: int, end: int, slots: int) -> None:
        nonlocal freed, border
        if end - freed > slots:
            found.append(Event(at, at - (found[-1].at if found else 0), at - end, slots))
            freed, border = end - slots, end

    decode = get("decode")
    least = (
        up(max(final if merged_prompt else 0, int(budget * decode["trigger"]), sinks + 1), block)
        if decode
        else 0
    )
    seen = border
    for at in range(1, tokens + 1):
        if at < prompt:
            if merged_prompt and peak < 1 and at - freed >= room and at < prompt - block:
                end = (at - recent) // block * block
                compress(at, end, min(up(max(final * end // region, sinks + 1), block), final))
        elif at == prompt:
            if merged_prompt:
                compress(at, region, final)
            seen = border
        elif decode:
            step = max((decode["trigger"] + 1 - decode["keep"]) // block, 1) * block
            if at - seen >= max(decode["trigger"] + 1, decode["keep"] + step):
                seen = (at - decode["keep"]) // block * block
                compress(at, seen, least)
    return found


class Oracle:
    """A model and the log-probabilities it gives over compressed caches."""

    def __init__(self, path: str) -> None:
        AttentionInterface.register("decant_reference", self._attend)
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="decant_reference"
        ).eval()
        self.queries: dict[int, Tensor] = {}  # by layer: [query_heads, tokens, dim], of the last forward pass
        self.mass: dict[int, Tensor] | None = None  # by layer: [heads, entries]
        self.gaps: list[float] = []  # how near choices of the last compression were to another outcome

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        layer, group = module.layer_idx, query.shape[1] // key.shape[1]
        self.queries[layer] = query[0].clone()
        logits = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scaling
        if self.mass is not None and layer in self.mass:
            bias = self.mass[layer].log().repeat_interleave(group, 0)
            logits[0, :, :, : bias.shape[1]] += bias[:, None]
        new, entries = logits.shape[2:]
        future = torch.ones(new, entries, dtype=torch.bool).triu(entries - new + 1)
        weights = logits.masked_fill(future, -math.inf).softmax(-1)
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2).contiguous(), None

    @torch.no_grad()
    def logprobs(
        self, prompt: Sequence[int], answer: Sequence[int], method: dict[str, Any] | None, block: int
    ) -> Tensor:
        """Log-probabilities `[len(answer), vocab]` before each token of the answer."""
        tokens = [*prompt, *answer]
        planned = events(method, len(prompt), len(tokens) - 1, block) if method else []
        cache = DynamicCache(config=self.model.config)
        self.mass = {} if (method or {}).get("mass") else None
        self.gaps = []
        rows: list[Tensor] = []
        history: dict[int, Tensor] = {}
        done = 0
        for stop in sorted({*(event.at for event in planned), len(prompt), len(tokens) - 1}):
            if stop <= done:
                continue
            out = self.model(
                torch.tensor([tokens[done:stop]]),
                past_key_values=cache,
                position_ids=torch.arange(done, stop)[None],
            )
            rows += list(out.logits[0, max(len(prompt) - 1 - done, 0) :] if stop >= len(prompt) else [])
            done = stop
            for layer, query in self.queries.items():
                history[layer] = torch.cat([history[layer], query], 1) if layer in history else query
            for event in planned:
                if event.at == stop and method is not None:
                    cache = self._compressed(cache, history, event, method)
        return torch.stack(rows)[: len(answer)].log_softmax(-1).double()

    def _compressed(
        self, cache: DynamicCache, history: dict[int, Tensor], event: Event, method: dict[str, Any]
    ) -> DynamicCache:
        new = DynamicCache(config=self.model.config)
        for index, layer in enumerate(cache.layers):
            keys, values = layer.keys[0], layer.values[0]  # [heads, entries, dim]
            end = keys.shape[1] - event.rest
            window = 0 if method["method"] == "streaming" else method.get("window", 32)
            window = min(window, keys.shape[1], event.since)
            scores = self._scores(history[index], keys, window) if window else torch.zeros(keys.shape[:2])
            before = torch.ones(keys.shape[:2])
            if self.mass is not None and index in self.mass:
                before[:, : self.mass[index].shape[1]] = self.mass[index]
            heads = [
                self._head(k[:end], v[:end], s[:end], m[:end], event.slots, method)
                for k, v, s, m in zip(keys, values, scores, before, strict=True)
            ]
            if self.mass is not None:
                self.mass[index] = torch.stack([mass for _, _, mass in heads])
            new.update(
                torch.cat([torch.stack([k for k, _, _ in heads]), keys[:, end:]], 1)[None],
                torch.cat([torch.stack([v for _, v, _ in heads]), values[:, end:]], 1)[None],
                index,
            )
        return new

    def _scores(self, queries: Tensor, keys: Tensor, window: int) -> Tensor:
        heads, entries, dim = keys.shape
        group = len(queries) // heads
        rows = torch.zeros(heads, entries)
        for i in range(window):
            seen = entries - window + i + 1
            for head, query in enumerate(queries[:, queries.shape[1] - window + i]):
                logits = keys[head // group, :seen] @ query * dim**-0.5
                rows[head // group, :seen] += logits.softmax(-1)
        return rows

    def _head(
        self, k: Tensor, v: Tensor, scores: Tensor, mass: Tensor, slots: int, method: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        sinks = method.get("sinks", 4)
        if method["method"] == "kvmerger":
            runs = self._runs(k, self._pooled(scores, method), slots, sinks, method.get("heavy", 0.25))
            merged = [self._merge(k, v, scores, run, method.get("sigma", "adaptive")) for run in runs]
            counts = torch.stack([mass[run].sum() for run in runs])
            return torch.stack([one for one, _ in merged]), torch.stack([one for _, one in merged]), counts
        if method["method"] == "snapkv":
            best = self._pooled(scores, method).tolist()
            order = sorted(range(sinks, len(k)), key=lambda i: (-best[i], i))
            kept = sorted([*range(sinks), *order[: slots - sinks]])
            self.gaps.append(best[order[slots - sinks - 1]] - best[order[slots - sinks]])
        else:
            kept = [*range(sinks), *range(len(k) - slots + sinks, len(k))]
        return k[kept], v[kept], mass[kept]

    def _pooled(self, scores: Tensor, method: dict[str, Any]) -> Tensor:
        half = method.get("pool", 5 if method["method"] == "kvmerger" else 7) // 2
        return torch.stack([scores[max(i - half, 0) : i + half + 1].max() for i in range(len(scores))])

    def _runs(self, k: Tensor, scores: Tensor, slots: int, sinks: int, heavy: float) -> list[list[int]]:
        count = max(0, min(int(heavy * len(k)), (slots - sinks - 1) // 2))
        order = sorted(range(sinks, len(k)), key=lambda i: (-scores[i].item(), i))
        alone = {*range(sinks), *order[:count]}
        if 0 < count < len(order):
            self.gaps.append(scores[order[count - 1]].item() - scores[order[count]].item())
        similar = torch.nn.functional.cosine_similarity(k[:-1], k[1:], dim=-1).tolist()
        links = [i for i in range(len(k) - 1) if i not in alone and i + 1 not in alone]
        links.sort(key=lambda i: (-similar[i], i))
        taken = set(links[: len(k) - slots])
        if len(taken) < len(links):
            self.gaps.append(similar[links[len(taken) - 1]] - similar[links[len(taken)]])
        runs = [[0]]
        for i in range(1, len(k)):
            if i - 1 in taken:
                runs[-1].append(i)
            else:
                runs.append([i])
        assert len(runs) == slots
        return runs

    def _merge(
        self, k: Tensor, v: Tensor, scores: Tensor, run: list[int], sigma: str | float
    ) -> tuple[Tensor, Tensor]:
        order = sorted(run, key=lambda i: (-scores[i].item(), i))
        if len(run) > 1:
            self.gaps.append(scores[order[0]].item() - scores[order[1]].item())
        distances = [(k[i] - k[order[0]]).norm().item() for i in run]
        width = sum(distances) / len(run) / math.sqrt(2) if sigma == "adaptive" else float(sigma)
        weights = [math.exp(-(d**2) / (2 * width**2)) if width > 0 else 1.0 for d in distances]
        total = sum(weights)
        key = sum((w / total * k[i] for w, i in zip(weights, run, strict=True)), torch.zeros_like(k[0]))
        value = sum((w / total * v[i] for w, i in zip(weights, run, strict=True)), torch.zeros_like(v[0]))
        return key, value
