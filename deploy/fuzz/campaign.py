"""Requests by the OpenAPI document, sent to a server, and what came of them."""

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from deploy.fuzz import checks
from deploy.fuzz.narrow import narrowed

CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    checks.states_errors_well.__name__,
    checks.is_up_or_says_why_not.__name__,
)
REFUSES_INVALID = "negative_data_rejection"
REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """A server, and what of it valid requests are drawn from."""

    url: str
    key: str
    document: dict[str, Any]
    models: list[str]
    engines: list[str]
    guides: list[str]


@dataclass(frozen=True)
class Kind:
    """One kind of requests: which part of the document they are drawn from, and whether they shall fit it."""

    name: str
    valid: bool
    decoding: bool = False

    def document(self, target: Target) -> dict[str, Any]:
        if not self.valid:
            return copy.deepcopy(target.document)
        return narrowed(target.document, target.models, target.engines, target.guides, self.decoding)


KINDS = (
    Kind("valid fields", valid=True),
    Kind("valid decoding methods", valid=True, decoding=True),
    Kind("invalid", valid=False),
)


@dataclass
class Finding:
    """A failure of one check on one operation: an example of it, and how often it came up."""

    operation: str
    check: str
    message: str
    curl: str
    count: int = 1


@dataclass
class Tally:
    """What came of all requests. `answers` counts by kind, operation and status; 0 means that none came."""

    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.answers.total()

    def by_operation(self) -> dict[str, Counter[int]]:
        found: dict[str, Counter[int]] = {}
        for (_, operation, status), count in self.answers.items():
            found.setdefault(operation, Counter())[status] += count
        return dict(sorted(found.items()))

    def accepted(self, kind: str) -> tuple[int, int]:
        """How many requests of this kind to routes with a body were answered 200, and how many there were."""
        posts = {key: n for key, n in self.answers.items() if key[0] == kind and key[1].startswith("POST")}
        return sum(n for key, n in posts.items() if key[2] == 200), sum(posts.values())

    def ok(self) -> bool:
        return not self.findings and not self.errors


def fuzz(target: Target, kind: Kind, examples: int, seed: int, tally: Tally, coverage: bool = True) -> None:
    """Send up to `examples` random requests to every operation, and those that cover the fields' bounds.

    Args:
        target: the server.
        kind: what is sent.
        examples: most random requests to an operation; those without parameters get few.
        seed: equal seeds send equal requests.
        tally: what is added to.
        coverage: whether to send, beside random ones, a request for each bound of each field.
    """
    schema = schemathesis.openapi.from_dict(
        kind.document(target), config=_config(target, kind, examples, seed, coverage)
    )
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _book(event, kind, tally)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            info = getattr(event, "info", None)
            tally.errors.append(
                f"{kind.name}: {getattr(event, 'label', '')}: {info or event.exception}"[:2000]
            )


def _config(target: Target, kind: Kind, examples: int, seed: int, coverage: bool) -> SchemathesisConfig:
    wanted = [*CHECKS] if kind.valid else [*CHECKS, REFUSES_INVALID]
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": target.url,
            "headers": {"Authorization": f"Bearer {target.key}"},
            "request-timeout": REQUEST_SECONDS,
            "max-stream-events": 10_000,
            "continue-on-failure": True,
            "generation": {
                "mode": "positive" if kind.valid else "negative",
                "max-examples": examples,
                "no-shrink": True,
                "database": "none",
            },
            "phases": {
                "examples": {"enabled": False},
                "coverage": {"enabled": coverage},
                "stateful": {"enabled": False},
            },
            "checks": {"enabled": False, **{name: {"enabled": True} for name in wanted}},
        }
    )


def _book(event: events.ScenarioFinished, kind: Kind, tally: Tally) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        status = interaction.response.status_code if interaction.response is not None else 0
        tally.answers[kind.name, recorder.cases[case_id].value.operation.label, status] += 1
    for case_id, results in recorder.checks.items():
        for result in results:
            if result.status is Status.FAILURE and result.failure_info is not None:
                failure = result.failure_info.failure
                label = recorder.cases[case_id].value.operation.label
                found = tally.findings.setdefault(
                    (label, result.name, failure.message[:120]),
                    Finding(label, result.name, failure.message, result.failure_info.code_sample, 0),
                )
                found.count += 1
