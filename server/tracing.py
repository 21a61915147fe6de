"""OpenTelemetry traces: a span for each request, and in it one for each request to an engine.

An engine's request is a plain answer, a segment of an answer that several engines write, the sampling of
candidates, or a step of their scoring. OpenTelemetry is imported only where traces are asked for.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import __version__
from server.config import ConfigError
from server.middleware import PROBES, decoding_fields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

PATH = "/v1/traces"  # of OTLP over HTTP
EXPORT_SECONDS = 5


class Tracing:
    """Where spans go. Spans that the exporter cannot send are dropped; requests never wait for them."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "decant", "service.version": __version__})
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer: Tracer = self.provider.get_tracer("decant", __version__)

    def engines(self, engines: Mapping[str, Any]) -> dict[str, Any]:
        """The engines, each with a span for every request it is given."""
        return {name: TracedEngine(engine, name, self.tracer) for name, engine in engines.items()}

    def close(self) -> None:
        """Send what is left. Blocks for at most a few seconds."""
        self.provider.force_flush(1000 * EXPORT_SECONDS)
        self.provider.shutdown()


def tracing_to(endpoint: str) -> Tracing:
    """Traces sent to a collector's OTLP/HTTP endpoint. Raises ConfigError where OpenTelemetry is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(f"otlp_endpoint: needs the extra 'otel' of decant: {error}") from None
    url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + PATH
    return Tracing(OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS))


class TraceRequests:
    """ASGI middleware: a span for each request but probes, child of the caller's `traceparent`."""

    def __init__(self, app: ASGIApp, tracer: "Tracer") -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.app = app
        self.tracer = tracer
        self.kind = SpanKind.SERVER
        self.propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = self.propagator.extract(headers)
        with self.tracer.start_as_current_span(scope["method"], context=context, kind=self.kind) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    _note_failure(span, message["status"])
                await send(message)

            try:
                await self.app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                span.update_name(f"{scope['method']} {route}")
                given = {"http.request.method": scope["method"], "http.route": route}
                given["decant.request_id"] = headers.get("x-request-id", "")
                done = {f"decant.{name}": value for name, value in decoding_fields(scope).items()}
                span.set_attributes({**given, **done})


def _note_failure(span: "Span", status: int) -> None:
    from opentelemetry.trace import StatusCode

    if status >= 500:
        span.set_status(StatusCode.ERROR)


class TracedEngine:
    """An engine with a span for each request; everything else is the engine's own."""

    def __init__(self, engine: Any, name: str, tracer: "Tracer") -> None:
        self._engine = engine
        self._name = name
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        from opentelemetry.trace import StatusCode

        # Not made the current span: a generator's context is its caller's, and outlives a step of it.
        span = self._tracer.start_span(step_of(request_id))
        span.set_attributes({"decant.engine": self._name, "decant.engine_request": request_id})
        tokens = 0
        try:
            async with aclosing(
                self._engine.generate(prompt, sampling_params, request_id, **options)
            ) as outputs:
                async for output in outputs:
                    if not tokens:
                        span.add_event("first output")
                        span.set_attribute("decant.prompt_tokens", len(output.prompt_token_ids or ()))
                        span.set_attribute("decant.cached_tokens", output.num_cached_tokens or 0)
                    tokens += sum(len(choice.token_ids) for choice in output.outputs)
                    yield output
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.set_attribute("decant.completion_tokens", tokens)
            span.end()


def step_of(request_id: str) -> str:
    """What an engine's request is, by its id: methods add their own part behind a slash."""
    parts = request_id.split("/")[1:]
    if not parts:
        return "decode"
    return parts[0].split("-")[0] if not parts[0].isdigit() else "segment"
