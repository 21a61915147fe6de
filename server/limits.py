"""Bounds that the configuration sets beside those on one request: on keys, connections and grammars."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# A web origin as browsers send it: scheme, host and port, and nothing else.
Origin = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9+.\-]*://[a-z0-9.\-_]+(:[0-9]{1,5})?$|^https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?$"
    ),
]
# A host's name, without a port.
HostName = Annotated[
    str,
    BeforeValidator(lambda name: name.lower() if isinstance(name, str) else name),
    Field(pattern=r"^[a-z0-9_]([a-z0-9_.\-]{0,252})$"),
]


class KeyLimits(BaseModel):
    """What one API key may use; without a figure there is no bound."""

    model_config = ConfigDict(extra="forbid")

    concurrent_requests: int | None = Field(default=None, ge=1, description="Requests at once (429 above).")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Requests a minute (429 above).")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Prompt and answer tokens a minute (429 above)."
    )


class ConnectionSettings(BaseModel):
    """Bounds on connections, whatever is asked on them."""

    model_config = ConfigDict(extra="forbid")

    most: int = Field(default=2048, ge=1, description="Connections open at once; 503 and closed above.")
    header_seconds: float = Field(
        default=20.0, gt=0, allow_inf_nan=False, description="How long a request's header may take to arrive."
    )
    body_seconds: float = Field(
        default=120.0, gt=0, allow_inf_nan=False, description="How long a request's body may take to arrive."
    )
    write_seconds: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a client may leave unread what waits to be sent to it.",
    )
    keep_alive_seconds: int = Field(
        default=5,
        ge=0,
        description="How long a connection stays open without a request.",
    )


class ContentLimits(BaseModel):
    """Bounds on what makes a request expensive beside its tokens."""

    list_items: int = Field(
        default=256, ge=1, description="Most items in bad_words, stop_token_ids and logprob_token_ids."
    )
    grammar_bytes: int = Field(
        default=1 << 16,
        ge=1,
        description="Largest schema, regular expression, grammar, structural tag or list of choices.",
    )
    grammar_depth: int = Field(default=64, ge=1, description="Deepest nesting of one of these.")
    grammar_seconds: float = Field(
        default=5.0, gt=0, allow_inf_nan=False, description="Longest time, of a CPU, to compile one of these."
    )
    grammar_mib: int = Field(default=512, ge=16, description="Most memory to compile one of these, in MiB.")
