"""vLLM's OpenAI handlers over a DecodingEngine, and what they need."""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization
from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.online_renderer import OnlineRenderer

from server.config import ConfigError, ServeSettings
from server.engine import DecodingEngine

ASKED_MODEL: ContextVar[str | None] = ContextVar("asked_model", default=None)


class Models(OpenAIServingModels):
    """vLLM's model list; the response's `model` is the id that was asked for, not always the first."""

    def model_name(self, lora_request: Any = None) -> str:
        if lora_request is not None:
            return str(super().model_name(lora_request))
        return ASKED_MODEL.get() or str(super().model_name())


class Handlers:
    """One handler for each kind of request."""

    def __init__(self, engine: DecodingEngine, settings: ServeSettings) -> None:
        table = settings.engine_table()
        root = table[settings.default_engine_name()].model
        ids = [settings.model_name(), *settings.preset_table()]
        self.models = Models(engine, [BaseModelPath(name=name, model_path=root) for name in ids])
        template = _chat_template(settings.chat_template)
        tools = {
            "enable_auto_tools": settings.tool_parser() is not None,
            "tool_parser": settings.tool_parser(),
        }
        reasoning = settings.reasoning_parser or ""
        common: dict[str, Any] = {
            "trust_request_chat_template": settings.allow_chat_templates,
            "request_logger": None,
            "chat_template": template,
            "chat_template_content_format": "auto",
        }
        try:
            self.renderer = OnlineRenderer(
                engine.model_config, engine.renderer, reasoning_parser=reasoning or None, **tools, **common
            )
            self.chat = OpenAIServingChat(
                engine,
                self.models,
                "assistant",
                online_renderer=self.renderer,
                reasoning_parser=reasoning,
                enable_prompt_tokens_details=True,
                **tools,
                **common,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"tool_call_parser or reasoning_parser: {error}") from error
        self.completion = OpenAIServingCompletion(
            engine,
            self.models,
            online_renderer=self.renderer,
            request_logger=None,
            enable_prompt_tokens_details=True,
        )
        self.tokenization = ServingTokenization(self.models, self.renderer, **common)
        if settings.limits.max_tokens is not None:
            for handler in (self.chat, self.completion):
                known = [settings.limits.max_tokens, handler.override_max_tokens]
                handler.override_max_tokens = min(limit for limit in known if limit is not None)

    def warmup(self) -> None:
        """Compile the chat template and load what the first request would otherwise wait for."""
        self.renderer.warmup()


def _chat_template(template: str | None) -> str | None:
    if template is None:
        return None
    try:
        return str(load_chat_template(Path(template) if Path(template).is_file() else template))
    except ValueError as error:
        raise ConfigError(f"chat_template: {error}") from error
