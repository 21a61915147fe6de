"""Grammars that would keep an engine busy for hours are found out elsewhere and refused."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from vllm.exceptions import QueueOverflowError, VLLMValidationError
from vllm.inputs import tokens_input
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from server.call import Call
from server.contract import check_constraint
from server.engine import DecodingEngine
from server.errors import ApiError
from server.grammars import validation
from server.grammars.depth import depth
from server.grammars.guard import Guard
from server.limits import ContentLimits
from server.requests import CALL
from tests.server.http import Service

# Each compiles for minutes, or does not end, in xgrammar 0.2.8; none is larger than the default bound.
EXPLOSIVE: dict[str, dict[str, Any]] = {
    "many stars": {"regex": "[a-z]*" * 10_000},
    "many options": {"regex": "[a-z]?" * 10_000},
    "many optional properties": {
        "json": {"type": "object", "properties": {f"k{i}": {} for i in range(4000)}}
    },
    "patterns of keys": {"json": {"type": "object", "patternProperties": {"^([a-z]{1,100}){1,100}$": {}}}},
    "stars in a grammar": {"grammar": "root ::= " + "[a-z]* " * 8000},
}
PLAIN: list[dict[str, Any]] = [
    {"regex": "(a+)+b"},  # explosive elsewhere, not here
    {"regex": "[a-c]{3}-[0-9]{2}"},
    {"choice": [":(((((", "red" * 100]},
    {"grammar": 'root ::= "a" | "b" root'},
    {"json": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    {"json_object": True},
]
FAILING = {"type": "string", "pattern": "a{1,300}"}
SECONDS = 0.5


@pytest.fixture(scope="module")
async def guard(engine: DecodingEngine) -> AsyncIterator[Guard]:
    limits = ContentLimits(grammar_seconds=SECONDS, grammar_mib=256)
    guard = Guard(limits, engine.vllm_config, engine.renderer.tokenizer)
    await guard.check(StructuredOutputsParams(regex="a"))  # its process has started
    yield guard
    await guard.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 30 s")


@pytest.mark.parametrize("name", EXPLOSIVE)
async def test_what_costs_too_much_is_refused_and_remembered(guard: Guard, name: str) -> None:
    outputs = StructuredOutputsParams(**EXPLOSIVE[name])
    for _ in range(2):
        with pytest.raises(VLLMValidationError, match="to compile; make it smaller"):
            await guard.check(outputs)
    began = time.process_time()
    with pytest.raises(VLLMValidationError):
        await guard.check(outputs)
    assert time.process_time() - began < SECONDS  # not tried again


@pytest.mark.parametrize("constraint", PLAIN)
async def test_what_is_cheap_passes(guard: Guard, constraint: dict[str, Any]) -> None:
    await guard.check(StructuredOutputsParams(**constraint))


async def test_what_xgrammar_itself_fails_on_is_said_to_be_that(guard: Guard) -> None:
    """xgrammar 0.2.8 fails on this only with its cache, which the engine's compiler has."""
    with pytest.raises(VLLMValidationError, match="xgrammar, which compiles grammars here, fails"):
        await guard.check(StructuredOutputsParams(json=FAILING))


async def test_a_dear_grammar_does_not_hold_up_a_cheap_one(guard: Guard) -> None:
    dear = asyncio.create_task(guard.check(StructuredOutputsParams(regex="[b-z]*" * 10_000)))
    await asyncio.sleep(0.05)
    await guard.check(StructuredOutputsParams(regex="xyz[0-9]"))
    assert not dear.done()
    with pytest.raises(VLLMValidationError):
        await dear


async def test_coming_again_and_again_starts_no_second_trial(guard: Guard) -> None:
    outputs = StructuredOutputsParams(regex="[d-z]*" * 10_000)
    for _ in range(20):
        impatient = asyncio.create_task(guard.check(outputs))
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
    assert guard._trials is not None
    assert guard._trials._compiling is not None
    assert len(guard._trials._trials) == len(guard._trials._compiling.waiting) == 1
    with pytest.raises(VLLMValidationError, match="to compile"):
        await guard.check(outputs)


async def test_memory_is_bounded_too(engine: DecodingEngine) -> None:
    limits = ContentLimits(grammar_seconds=30, grammar_mib=16)
    guard = Guard(limits, engine.vllm_config, engine.renderer.tokenizer)
    try:
        await guard.check(StructuredOutputsParams(regex="a"))
        with pytest.raises(VLLMValidationError, match="16 MiB"):
            # Nearly as large as it may be: about 26 MiB.
            await guard.check(StructuredOutputsParams(regex="|".join(f"a{i}b" for i in range(8500))))
    finally:
        await guard.close()


async def test_the_process_is_started_again_when_it_died(guard: Guard) -> None:
    """What the new one is asked is its own affair, though the old one's last grammar still compiles."""
    trials = guard._trials
    assert trials is not None
    assert trials._compiling is not None
    died = trials._compiling.process
    dear = asyncio.create_task(guard.check(StructuredOutputsParams(regex="[c-z]*" * 10_000)))
    await until(lambda: psutil.Process(died.pid).children() != [])
    died.kill()
    await until(lambda: died.returncode is not None)
    innocent = asyncio.create_task(guard.check(StructuredOutputsParams(regex="[e-z]*" * 10_000)))
    with pytest.raises(RuntimeError, match="has died"):
        await dear
    with pytest.raises(VLLMValidationError, match="to compile"):
        await innocent
    await guard.check(StructuredOutputsParams(regex="started again"))


async def test_closing_ends_what_is_in_line_too(engine: DecodingEngine) -> None:
    this = psutil.Process()
    others = set(this.children(recursive=True))
    guard = Guard(ContentLimits(), engine.vllm_config, engine.renderer.tokenizer)
    await guard.check(StructuredOutputsParams(regex="a"))
    tries = [
        asyncio.create_task(guard.check(StructuredOutputsParams(regex=f"[{first}-z]*" * 10_000)))
        for first in "fghij"
    ]
    await asyncio.sleep(0.1)
    await guard.close()
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert {type(end) for end in ends} == {RuntimeError, QueueOverflowError}
    with pytest.raises(QueueOverflowError):
        await guard.check(StructuredOutputsParams(regex="too late"))
    assert set(this.children(recursive=True)) <= others


async def test_a_request_that_waits_for_its_trial_does_not_slip_past_the_closing(
    engine: DecodingEngine, guard: Guard
) -> None:
    call = Call.plain()
    call.guard = guard
    late = StructuredOutputsParams(regex="(too|late)[k-z]{40,}")
    params = SamplingParams(max_tokens=64, structured_outputs=late, extra_args={CALL: call})
    await guard.check(StructuredOutputsParams(regex="the process is there"))
    trials = guard._trials
    assert trials is not None
    assert trials._compiling is not None
    tries = psutil.Process(trials._compiling.process.pid)
    tries.suspend()  # the trial lasts until the server has closed
    try:
        first = asyncio.ensure_future(anext(engine.generate(tokens_input([5, 6, 7]), params, "late")))
        await until(lambda: trials._trials != {})
        assert await engine.abort_all() == 0
        tries.resume()
        with pytest.raises(QueueOverflowError):
            await first
    finally:
        tries.resume()
        engine.closed = False


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": "a" * 1001},
        {"choice": ["abc"] * 300},
        {"json": {"enum": ["x" * 1000]}},
        {"grammar": 'root ::= "' + "a" * 1000 + '"'},
        {"structural_tag": '{"structures": [], "triggers": ["' + "a" * 1000 + '"]}'},
        {"regex": "(" * 9 + "a" + ")" * 9},
        {"json": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}},
        {"grammar": "root ::= " + "(" * 9 + '"a"' + ")" * 9},
    ],
)
async def test_size_and_depth_are_bounded(engine: DecodingEngine, constraint: dict[str, Any]) -> None:
    limits = ContentLimits(grammar_bytes=1000, grammar_depth=8)
    guard = Guard(limits, engine.vllm_config, engine.renderer.tokenizer)
    with pytest.raises(VLLMValidationError, match=r"at most (1000 bytes|8 deep)|nested at most 8 deep"):
        await guard.check(StructuredOutputsParams(**constraint))


@pytest.mark.parametrize(
    ("kind", "spec", "deep"),
    [
        ("json", '{"a": "((((", "b": [1, {}]}', 3),
        ("json", '{"a": "\\"]]]", "b": [[]]}', 3),
        ("json", "[" * 1000, 1000),  # too deep for some parsers
        ("structural_tag", '{"a": NaN, "b": [[]]}', 3),  # no JSON for some
        ("regex", "((a)|[b])", 2),
        ("regex", ")))(((", 3),
        ("regex", "[()]{2}" * 100, 1),
        ("regex", r"(\)" * 300 + ")" * 300, 300),
        ("regex", "([)]" * 300 + ")" * 300, 301),
        ("regex", "(]" * 300 + ")" * 300, 300),
        ("regex", "(}" * 300 + ")" * 300, 300),
        ("regex", "([])]" * 300 + ")" * 300, 301),  # Python and Rust: a class of `]` and `)`
        ("regex", "([[a])]" * 300 + ")" * 300, 302),  # Rust: a class in a class
        ("regex", "(?x)" + "(#)\n" * 300 + ")" * 300, 301),  # a comment
        ("ebnf", 'root ::= ("a" | [(] | "(((") # ((', 1),
        ("ebnf", "root ::= " + '( ")" ' * 300 + '"a"' + " )" * 300, 300),
        ("ebnf", "root ::= " + "( [)] " * 300 + '"a"' + " )" * 300, 300),
        ("ebnf", "root ::= " + "( #)\n" * 300 + '"a"' + " )" * 300, 300),
        ("lark", 'start: ("a" | /((b))/ | "(((") // ((', 3),
        ("lark", "start: " + "( /[)]/ " * 300 + '"a"' + " )" * 300, 301),
        ("lark", "start: " + '( ")" ' * 300 + '"a"' + " )" * 300, 300),
    ],
)
def test_depth_is_that_of_brackets_that_are_not_quoted(kind: str, spec: str, deep: int) -> None:
    assert depth(kind, spec) == deep


def test_depth_is_found_in_linear_time() -> None:
    for kind in ("json", "regex", "ebnf", "lark"):
        for piece in ("[", '"', "\\", "[^", "/", '"\\', "[a", "(?"):
            began = time.process_time()
            depth(kind, piece * (1 << 16))
            assert time.process_time() - began < 30  # quadratic: minutes


@pytest.mark.parametrize("inner", ['"\\ud800"', "[" * 300 + "]" * 300])
def test_a_reference_elsewhere_is_found_in_text_that_a_stricter_parser_refuses(inner: str) -> None:
    """vLLM reads both, and takes the reference for no constraint."""
    text = '{"description": %s, "$ref": "https://example.org/schema"}' % inner  # noqa: UP031
    with pytest.raises(ApiError, match="must point into"):
        check_constraint({"json": text})


# ---- through the service -------------------------------------------------------------------------------

BODY: dict[str, Any] = {"model": "demo", "prompt": "The capital of", "max_tokens": 4}
BOUNDS: dict[str, Any] = {"grammar_seconds": SECONDS, "grammar_mib": 256}
SCHEMA = EXPLOSIVE["many optional properties"]["json"]
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "demo", "messages": MESSAGES, "max_tokens": 4, **more}


TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}],
    "triggers": ["<a"],
}
KEYS = EXPLOSIVE["patterns of keys"]["json"]  # short enough for a prompt, where tools stand too
SLOW = {"type": "string", "pattern": "a{1,6000}"}  # seconds to convert, before it is compiled
TOOL = {"type": "function", "function": {"name": "pick", "strict": True, "parameters": KEYS}}
WAYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "structured_outputs": (
        "/v1/completions",
        {**BODY, "structured_outputs": {"json": SCHEMA}},
        "structured_outputs",
    ),
    "regex": (
        "/v1/completions",
        {**BODY, "structured_outputs": EXPLOSIVE["many stars"]},
        "structured_outputs",
    ),
    "response_format": (
        *chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        "response_format",
    ),
    "structural tag": (*chat(response_format=TAG), "response_format"),
    "structural tag as text": (
        *chat(
            structured_outputs={"structural_tag": json.dumps({k: TAG[k] for k in ("structures", "triggers")})}
        ),
        "structured_outputs",
    ),
    "tool": (*chat(tools=[TOOL], tool_choice="required"), "tools"),
    "schema beside a strict tool": (
        *chat(
            tools=[{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}],
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SLOW}},
        ),
        "response_format",
    ),
    "named tool": (
        *chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "pick"}}),
        "tools",
    ),
}


@pytest.fixture(scope="module")
async def service(engine: DecodingEngine) -> AsyncIterator[Service]:
    service = Service(engine, **BOUNDS)
    yield service
    await service.app.state.decant.guard.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WAYS)
async def test_no_way_leads_an_explosive_schema_to_the_engine(
    service: Service, name: str, stream: bool
) -> None:
    path, body, param = WAYS[name]
    refused, message = await service.refused(path, {**body, "stream": stream})
    assert refused is not None
    assert refused.split(".")[0] in (param, "tool_choice")
    assert "to compile" in message
    assert await service.post_ok("/v1/completions", {**BODY, "structured_outputs": {"regex": "[a-z]{2}"}})


async def test_a_failing_compiler_is_not_taken_for_a_schema_without_text(service: Service) -> None:
    body = {**BODY, "structured_outputs": {"json": FAILING}}
    param, message = await service.refused("/v1/completions", body)
    assert param == "structured_outputs"
    assert "xgrammar" in message
    assert "accepts no text" not in message


ONCE = {"begin": "<once>", "schema": {"type": "integer"}, "end": "</once>"}


@pytest.mark.parametrize(
    "constraint",
    [
        {"structured_outputs": {"regex": "(once)|(only)"}},
        {"structured_outputs": {"choice": ["once", "only"]}},
        {"structured_outputs": {"grammar": 'root ::= "once" |'}},  # it is none
        {"response_format": {"type": "structural_tag", "structures": [ONCE], "triggers": ["<o"]}},
    ],
)
async def test_a_grammar_is_converted_once_and_not_on_the_event_loop(
    service: Service, constraint: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many prompts it goes with."""
    made: list[threading.Thread] = []

    def validated(params: SamplingParams) -> None:
        made.append(threading.current_thread())
        validate(params)

    validate = validation._validate
    monkeypatch.setattr(validation, "_validate", validated)
    body = {**BODY, "prompt": [[5, 6, 7]] * 8, **constraint}
    response = await service.post("/v1/completions", body)
    assert response.status_code == (400 if "grammar" in str(constraint) else 200)
    assert len(made) == 1
    assert threading.main_thread() not in made
