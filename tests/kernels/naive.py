"""The operators once more in pure Python, by their definitions: what the torch reference is checked against.

Lists of floats in, lists of floats out; one row, game or head at a time.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

Row = Sequence[float]
INF = math.inf


def softmax(row: Row) -> list[float]:
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [part / math.fsum(parts) for part in parts]


def log_softmax(row: Row) -> list[float]:
    top = max(row)
    total = math.fsum(math.exp(x - top) for x in row)
    return [x - top - math.log(total) for x in row]


def entropy(row: Row) -> float:
    return -math.fsum(p * math.log2(p) for p in softmax(row) if p > 0)


def fuse(
    base: Row, guides: Sequence[Row], weights: Row, normalise: bool, alpha: float, gate: float
) -> tuple[list[float], bool]:
    if not entropy(base) > gate:
        return list(base), False
    probabilities = softmax(base)
    used = [(w, guide) for w, guide in zip(weights, guides, strict=True) if w != 0]
    result = []
    for y, logit in enumerate(base):
        implausible = probabilities[y] < alpha * max(probabilities)
        if implausible or logit == -INF or any(guide[y] == -INF for _, guide in used):
            result.append(-INF)
        elif normalise:
            result.append(log_softmax(base)[y] + sum(w * log_softmax(guide)[y] for w, guide in used))
        else:
            result.append(logit + sum(w * guide[y] for w, guide in used))
    return result, True


def divergence(p: Row, q: Row) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def dynamic_fusion(
    large: Row, experts: Sequence[Row], small: Row, grid: Row
) -> tuple[list[float], list[float], float]:
    """alpha of each expert, the fused logits, and by how much the chosen point beats the next best."""
    kept = [y for y in range(len(large)) if all(row[y] > -INF for row in (large, small, *experts))]
    p = softmax([large[y] for y in kept])
    q = softmax([small[y] for y in kept])
    targets = [divergence(softmax([expert[y] for y in kept]), q) for expert in experts]
    tried = []
    for k, expert in enumerate(experts):
        for a in grid:
            fused = [large[y] + a * (expert[y] - small[y]) for y in kept]
            moved = divergence(softmax(fused), p)
            tried.append((sum((moved - target) ** 2 for target in targets), k, a))
    best = tried[0]
    for one in tried[1:]:
        if one[0] < best[0]:
            best = one
    loss, k, a = best
    alpha = [a if i == k else 0.0 for i in range(len(experts))]
    logits = [-INF] * len(large)
    for y in kept:
        logits[y] = large[y] + sum(
            b * (expert[y] - small[y]) for b, expert in zip(alpha, experts, strict=True)
        )
    return alpha, logits, min(other[0] for other in tried if other is not best) - loss


def pikl(
    generator: Sequence[Row], discriminator: Sequence[Row], eta: float, lam: float, iterations: int
) -> tuple[list[list[float]], list[list[float]]]:
    """generator[v][y], discriminator[y][v] as probabilities; returns the policies as probabilities."""
    both, candidates = range(2), range(len(discriminator))

    def normalised(parts: Row) -> list[float]:
        return [part / math.fsum(parts) for part in parts]

    said = [sum(generator[v][y] for v in both) for y in candidates]
    judged = [sum(discriminator[y][v] for y in candidates) for v in both]
    first_g = [normalised([generator[v][y] / said[y] for y in candidates]) for v in both]
    first_d = [normalised([discriminator[y][v] / judged[v] for v in both]) for y in candidates]
    played_g, played_d = [first_g], [first_d]
    for t in range(1, iterations + 1):
        q_g = [[sum(d[y][v] for d in played_d) / (2 * t) for y in candidates] for v in both]
        q_d = [[sum(g[v][y] for g in played_g) / (2 * t) for v in both] for y in candidates]
        cold = 1 / (1 / (eta * t) + lam)
        next_g = [
            normalised([math.exp((q_g[v][y] + lam * math.log(first_g[v][y])) * cold) for y in candidates])
            for v in both
        ]
        next_d = [
            normalised([math.exp((q_d[y][v] + lam * math.log(first_d[y][v])) * cold) for v in both])
            for y in candidates
        ]
        played_g.append(next_g)
        played_d.append(next_d)
    return played_g[-1], played_d[-1]


def adjacent_similarity(keys: Sequence[Row]) -> list[float]:
    links = []
    for a, b in pairwise(keys):
        norms = math.hypot(*a) * math.hypot(*b)
        links.append(math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0)
    return links


def window_scores(queries: Sequence[Sequence[Row]], keys: Sequence[Row], scale: float) -> list[float]:
    """queries[window][group] of one key head."""
    mass = [0.0] * len(keys)
    for i, group in enumerate(queries):
        seen = len(keys) - len(queries) + i + 1
        for query in group:
            dots = [scale * math.fsum(a * b for a, b in zip(query, key, strict=True)) for key in keys[:seen]]
            for token, share in enumerate(softmax(dots)):
                mass[token] += share
    return mass


def beats(a: float, b: float) -> bool:
    """a is the higher of two scores; NaN is lower than any number."""
    return not math.isnan(a) and (math.isnan(b) or a > b)


def highest(values: Row, among: Sequence[int]) -> int:
    best = among[0]
    for i in among[1:]:
        if beats(values[i], values[best]):
            best = i
    return best


def merge_segments(similarity: Row, scores: Row, slots: int, sinks: int, heavy: int) -> list[int]:
    tokens = len(similarity) + 1
    protected = set(range(min(sinks, tokens)))
    for _ in range(heavy):
        others = [i for i in range(sinks, tokens) if i not in protected]
        if others:
            protected.add(highest(scores, others))
    joined: set[int] = set()
    while tokens - len(joined) > slots:
        links = [i for i in range(tokens - 1) if i not in joined and not protected & {i, i + 1}]
        joined.add(highest(similarity, links))
    segments = [0]
    for i in range(tokens - 1):
        segments.append(segments[-1] + (i not in joined))
    return segments


def merge_run(
    keys: Sequence[Row], values: Sequence[Row], scores: Row, sigma: float | None
) -> tuple[list[float], list[float]]:
    """One slot's key and value, from its tokens'."""
    pivot = keys[highest(scores, range(len(keys)))]
    distances = [math.dist(pivot, key) for key in keys]
    if sigma is None:
        sigma = max(sum(distances) / len(keys), 1e-6) / math.sqrt(2)
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in distances]
    total = math.fsum(weights)

    def mean(rows: Sequence[Row]) -> list[float]:
        return [
            math.fsum(w * x for w, x in zip(weights, column, strict=True)) / total
            for column in zip(*rows, strict=True)
        ]

    return mean(keys), mean(values)
