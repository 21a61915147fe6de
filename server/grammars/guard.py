"""The bounds on what clients have answers constrained by."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pydantic import TypeAdapter, ValidationError
from vllm.config import VllmConfig
from vllm.entrypoints.generate.base.protocol import AnyStructuralTagResponseFormat
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from server.grammars import validation
from server.grammars.depth import depth
from server.grammars.trial import Trials
from server.limits import ContentLimits

TAGS: TypeAdapter[Any] = TypeAdapter(AnyStructuralTagResponseFormat)
TRIED = ("auto", "xgrammar")  # backends that compile with xgrammar


class Guard:
    """Refuses schemas, regular expressions and grammars that are too large, too deep or too dear."""

    def __init__(self, limits: ContentLimits, config: VllmConfig, tokenizer: Any) -> None:
        self.limits = limits
        self.config = config
        self.tokenizer = tokenizer
        self._trials: Trials | None = None
        validation.install()

    @property
    def tries(self) -> bool:
        """Whether the engines compile what this has compiled before them."""
        return self.config.structured_outputs_config.backend in TRIED

    async def check(self, outputs: StructuredOutputsParams) -> None:
        """Errors: VLLMValidationError 400, which names no field: the request has one of several."""
        for kind, spec in _parts(outputs):
            self._require_small(kind, spec)
            if self.tries:
                settings = self.config.structured_outputs_config
                await self._require_compiled(kind, spec, not settings.disable_any_whitespace)
        if self.tries:
            await validation.prepare(outputs)

    async def check_tags(self, body: Mapping[str, Any]) -> None:
        """The same for the structural tags of a request, which vLLM converts while it reads the body."""
        wanted = body.get("response_format")
        tags = [_as_vllm_writes(wanted)] if _is_tag(wanted) else []
        given = body.get("structured_outputs")
        tag = given.get("structural_tag") if isinstance(given, dict) else None
        if isinstance(tag, str):
            tags.append(tag)
        for text in tags:
            await self.check(StructuredOutputsParams(structural_tag=text))

    def _require_small(self, kind: str, spec: str) -> None:
        limits = self.limits
        if len(spec.encode(errors="surrogatepass")) > limits.grammar_bytes:
            raise VLLMValidationError(
                f"A schema, regular expression or grammar may have at most {limits.grammar_bytes} bytes.",
                parameter="structured_outputs",
            )
        if depth(kind, spec) > limits.grammar_depth:
            raise VLLMValidationError(
                f"A schema, regular expression or grammar may be nested at most {limits.grammar_depth} deep.",
                parameter="structured_outputs",
            )

    async def _require_compiled(self, kind: str, spec: str, any_whitespace: bool) -> None:
        if self._trials is None:
            tokenizer = await asyncio.to_thread(self._tokenizer)
            if self._trials is None:  # another request may have been quicker
                self._trials = Trials(tokenizer, self.limits.grammar_seconds, self.limits.grammar_mib)
        outcome = await self._trials.outcome(kind, spec, any_whitespace)
        if outcome == "exceeded":
            raise VLLMValidationError(
                "This schema, regular expression or grammar takes more than "
                f"{self.limits.grammar_seconds:g} s or {self.limits.grammar_mib} MiB to compile; "
                "make it smaller, or constrain less.",
                parameter="structured_outputs",
            )
        if outcome == "failed":
            raise VLLMValidationError(
                "xgrammar, which compiles grammars here, fails on this schema, regular expression or "
                "grammar, though it is a valid one; write it in another way.",
                parameter="structured_outputs",
            )

    def _tokenizer(self) -> str:
        size = self.config.model_config.get_vocab_size()
        backend = XgrammarBackend(self.config, tokenizer=self.tokenizer, vocab_size=size)
        return str(backend.compiler.compile_regex("a").tokenizer_info.serialize_json())

    async def close(self) -> None:
        if self._trials is not None:
            await self._trials.close()


def _is_tag(wanted: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(wanted, dict) and wanted.get("type") == "structural_tag"


def _as_vllm_writes(tag: dict[str, Any]) -> str:
    """The text that vLLM makes of a tag, by which it is known again; a tag that is none is left to vLLM."""
    try:
        return json.dumps(TAGS.validate_python(tag).model_dump(by_alias=True))
    except ValidationError:
        return json.dumps(tag)


def _parts(outputs: StructuredOutputsParams) -> Iterator[tuple[str, str]]:
    """What would be compiled, by kind."""
    if outputs.json is not None:
        yield "json", outputs.json if isinstance(outputs.json, str) else json.dumps(outputs.json)
    if outputs.regex is not None:
        yield "regex", outputs.regex
    if outputs.choice:
        yield "ebnf", choice_as_grammar(outputs.choice)
    if outputs.grammar is not None:
        yield "lark" if grammar_is_likely_lark(outputs.grammar) else "ebnf", outputs.grammar
    if outputs.structural_tag is not None:
        yield "structural_tag", outputs.structural_tag
