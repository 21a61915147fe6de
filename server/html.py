"""Pages of our own, and the headers that keep browsers from doing more with them than they are for."""

from collections.abc import Mapping

from fastapi.responses import HTMLResponse

# Scripts, styles and connections of this server only, nothing inline, in nobody's frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def security_headers(content_type: str) -> dict[str, str]:
    """What an answer of this type is sent with: its type is binding, and a page is kept to itself."""
    nosniff = {"X-Content-Type-Options": "nosniff"}
    return {**nosniff, **PAGE_HEADERS} if content_type.startswith("text/html") else nosniff


def page(html: str, status: int = 200) -> HTMLResponse:
    """A page; its scripts and styles come from paths of this server, not from inside it."""
    return HTMLResponse(html, status, headers=dict(PAGE_HEADERS))
