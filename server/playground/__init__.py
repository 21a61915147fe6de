"""The playground: a page for trying decoding methods, served at `/` without a key.

The page holds nothing of the server. What it shows it asks of the API, with the key that its user gives it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PAGE: Final = "index.html"
FOLDER: Final = Path(__file__).parent / "static"
# Exact types, and no others: browsers are told not to guess, and refuse modules of another type.
TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent. `etag` changes with the content."""

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> Mapping[str, Asset]:
    """The files by the path they are served at: the page at `/`, what it loads below `/playground/`."""
    found = {}
    for file in sorted(FOLDER.iterdir()):
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        path = "/" if file.name == PAGE else f"/playground/{file.name}"
        found[path] = Asset(content, TYPES[file.suffix], etag)
    return found
