"""vLLM's own check of a constraint, made once for each, and not on the event loop.

vLLM converts a schema or grammar whenever it meets one: for every prompt, and beside tools once more. A trial
bounds what one conversion takes, not how often it is done.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import replace
from hashlib import sha256

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar
from vllm.v1.structured_output.utils import choice_as_grammar

REMEMBERED = 4096  # constraints whose outcome is known

_validate = backend_xgrammar.validate_xgrammar_grammar
_known: OrderedDict[bytes, str | None] = OrderedDict()  # what is wrong with each; None: nothing


def install() -> None:
    """Put `validate` in the place of vLLM's function, which its callers look up with each call."""
    backend_xgrammar.validate_xgrammar_grammar = validate


def validate(params: SamplingParams) -> None:
    """As vLLM's: raises VLLMValidationError for what xgrammar cannot read; choices become a grammar."""
    outputs = params.structured_outputs
    if outputs is None:
        return
    key = _key(outputs)
    if key not in _known:
        _remember(key, _fault(outputs))
    if (fault := _known[key]) is not None:
        raise VLLMValidationError(fault)
    if outputs.choice:
        outputs.grammar, outputs.choice = choice_as_grammar(outputs.choice), None


async def prepare(outputs: StructuredOutputsParams) -> None:
    """Find out in a thread what `validate` will say; xgrammar does not hold the interpreter meanwhile."""
    key = _key(outputs)
    if key not in _known:
        try:
            fault = await asyncio.to_thread(_fault, outputs)
        except (TypeError, ValueError):
            return  # found without a conversion, and said by vLLM
        _remember(key, fault)


def _fault(outputs: StructuredOutputsParams) -> str | None:
    try:
        _validate(SamplingParams(structured_outputs=replace(outputs)))
    except VLLMValidationError as error:
        return str(error.args[0])
    return None


def _remember(key: bytes, fault: str | None) -> None:
    _known[key] = fault
    if len(_known) > REMEMBERED:
        _known.popitem(last=False)


def _key(outputs: StructuredOutputsParams) -> bytes:
    grammar = choice_as_grammar(outputs.choice) if outputs.choice else outputs.grammar
    given = (outputs.json, outputs.regex, grammar, outputs.structural_tag)
    return sha256(json.dumps(given).encode()).digest()
