"""TLS: what the configuration says of it, and the context it amounts to."""

import ssl
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsSettings(BaseModel):
    """HTTPS in place of HTTP, where a certificate is given."""

    model_config = ConfigDict(extra="forbid")

    certfile: Path | None = Field(default=None, description="PEM file with the certificate and its chain.")
    keyfile: Path | None = Field(
        default=None, description="PEM file with the certificate's key, unencrypted."
    )
    client_ca: Path | None = Field(
        default=None, description="PEM file with CAs; clients must then show a certificate of theirs."
    )
    min_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Oldest TLS version spoken.")

    @model_validator(mode="after")
    def _whole(self) -> "TlsSettings":
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together")
        if self.client_ca is not None and self.certfile is None:
            raise ValueError("client_ca needs certfile and keyfile")
        return self

    def context(self) -> ssl.SSLContext | None:
        """The server's side of TLS; None for plain HTTP. Errors: ValueError for files that cannot be used."""
        if self.certfile is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[self.min_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A key that needs a password would be asked for on a terminal that a server does not have.
            context.load_cert_chain(self.certfile, self.keyfile, password=_no_password)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"tls: certfile, keyfile or client_ca cannot be used: {reason}") from None
        return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; give it unencrypted, readable by the server alone")
