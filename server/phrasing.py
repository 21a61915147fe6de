"""A request's question in other words: filled into templates, rendered and tokenised as the request itself
is.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError

from decoders.errors import Refusal
from decoders.sequence.candidates.phrasing import Continued, Phrasing, filled, split
from server.requests import ChatRequest, GeneratingRequest, TextRequest


def phrasing_of(body: GeneratingRequest, request: Request, renderer: Any) -> Phrasing | None:
    """How the request's question can be put in other words; None for a prompt of token ids."""
    if isinstance(body, ChatRequest):
        return ChatPhrasing(body, request.state.body["messages"], renderer)
    prompt = body.prompt[0] if isinstance(body.prompt, list) and len(body.prompt) == 1 else body.prompt
    return TextPhrasing(body, prompt, renderer) if isinstance(prompt, str) else None


class _Rendered:
    def __init__(self, renderer: Any) -> None:
        self.renderer = renderer

    @property
    def end(self) -> int | None:
        end: int | None = self.renderer.renderer.get_tokenizer().eos_token_id
        return end


class TextPhrasing(_Rendered):
    """Of a text prompt, which is the question; continuations are part of the text."""

    def __init__(self, body: TextRequest, question: str, renderer: Any) -> None:
        super().__init__(renderer)
        self.body = body
        self.question = question

    def require(self) -> None:
        """A text prompt is one."""

    async def continued(self, template: str, answer: str, texts: Sequence[str]) -> Continued:
        text = filled(template, self.question, answer)
        prompts = [text, *(text + more for more in texts)]
        inputs = await self.renderer.preprocess_completion(self.body, prompts, None)
        tokens = [list(one["prompt_token_ids"]) for one in inputs]
        return split(tokens[0], tokens[1:])


class ChatPhrasing(_Rendered):
    """Of a conversation, whose last message is the question: the template takes its place.

    Continuations follow the rendered prompt as the assistant's answer does.
    """

    def __init__(self, body: ChatRequest, messages: list[dict[str, Any]], renderer: Any) -> None:
        super().__init__(renderer)
        self.body = body
        self.messages = messages

    def _question(self) -> str:
        last = self.messages[-1]
        content = last.get("content")
        if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
            content = content[0].get("text")
        if last.get("role") != "user" or not isinstance(content, str):
            raise Refusal("The last message must be the user's, and text: it is the question.", "messages")
        return content

    def require(self) -> None:
        self._question()

    async def continued(self, template: str, answer: str, texts: Sequence[str]) -> Continued:
        asked = {**self.messages[-1], "content": filled(template, self._question(), answer)}
        body = self.body.model_copy(update={"messages": [*self.messages[:-1], asked]})
        result = await self.renderer.render_chat(body)
        if isinstance(result, ErrorResponse):
            raise VLLMValidationError(result.error.message, parameter=result.error.param)
        prompt = list(result[1][0]["prompt_token_ids"])
        rendered = result[1][0].get("prompt")
        tokenizer = self.renderer.renderer.get_tokenizer()

        def encoded(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        if rendered is not None and encoded(rendered) == prompt:
            return split(prompt, [encoded(rendered + text) for text in texts])
        # A prompt that is not text as a whole, so that nothing can merge with its end.
        return Continued(prompt, [encoded(text) for text in texts])
