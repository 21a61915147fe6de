"""The chat template, by the way transformers and vLLM read it."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from server import embedded
from server.embedded.recipe.packing import Encoder
from server.embedded.recipe.segments import Segment

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}


@pytest.fixture(scope="module", params=embedded.NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(embedded.path(request.param))


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def test_turns_are_rendered_as_they_are_trained(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "Hello! What can I do for you?"},
    ]
    segments = [Segment(message["role"], message["content"]) for message in messages]
    (row,) = Encoder(tokenizer.backend_tokenizer).encode([segments])
    assert tokenizer.apply_chat_template(messages)["input_ids"] == row.ids


def test_developer_is_system_and_tool_is_user(tokenizer: Any) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "tool", "content": "3"}]
    assert render(tokenizer, messages) == "<s><|system|>Be brief.<|user|>3"


def test_generation_prompt(tokenizer: Any) -> None:
    assert render(tokenizer, [USER], add_generation_prompt=True) == "<s><|user|>Hi<|assistant|>"


def test_final_message_can_be_continued(tokenizer: Any) -> None:
    messages = [USER, {"role": "assistant", "content": "Answer:"}]
    assert render(tokenizer, messages, continue_final_message=True) == "<s><|user|>Hi<|assistant|>Answer:"


def test_tools_and_calls_without_content(tokenizer: Any) -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    expected = '<s><|system|>Tools: add(a, b).<|user|>Hi<|assistant|> Call add({"a": 1}).</s>'
    assert render(tokenizer, messages, tools=[TOOL]) == expected


def test_tools_without_parameters(tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    assert render(tokenizer, [USER], tools=[tool]) == "<s><|system|>Tools: now().<|user|>Hi"


def test_unknown_roles_are_refused(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="unknown role wizard"):
        render(tokenizer, [{"role": "wizard", "content": "Hi"}])


def test_plain_text_begins_with_the_start_token(tokenizer: Any) -> None:
    ids = tokenizer("Hello there")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hello there"
