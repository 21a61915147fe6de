"""What MkDocs does beside its own: formulas become MathML, and documents outside docs/ become pages.

Nothing is fetched when a page is read: no script or font of another host is needed for formulas.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]
# Documents that stand where repositories have them, by their place on the site.
DOCUMENTS: Final = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "deploy/README.md": "project/deployment.md",
    "deploy/loadtest/README.md": "project/load-test.md",
    "deploy/fuzz/README.md": "project/fuzzing.md",
    "server/embedded/README.md": "project/embedded-models.md",
}
PLACES: Final = {place: source for source, place in DOCUMENTS.items()}
LINK: Final = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
DISPLAY: Final = re.compile(r"^```math\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"\$`([^`]+)`\$")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the documents, and every file of the repository that a page links to."""
    for source, place in DOCUMENTS.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    known = {file.src_uri for file in files}
    for file in list(files.documentation_pages()):
        text = Path(file.abs_src_path or "").read_text(encoding="utf-8")
        for target in (match[3] for match in LINK.finditer(text)):
            source = _source(_home(file.src_uri), target)
            if source is None or (ROOT / source).is_dir():
                continue
            place = _place(source)
            if place not in known and (ROOT / source).is_file():
                known.add(place)
                files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Formulas and links of one page."""
    here = page.file.src_uri
    text = DISPLAY.sub(lambda m: f'\n<div class="formula">{_mathml(m[1], "block")}</div>\n', markdown)
    parts, last = [], 0
    for fence in FENCE.finditer(text):  # code stays as it is
        parts += [_prose(text[last : fence.start()], here), fence[0]]
        last = fence.end()
    return "".join([*parts, _prose(text[last:], here)])


def _prose(text: str, here: str) -> str:
    text = INLINE.sub(lambda m: _mathml(m[1], "inline"), text)
    return LINK.sub(lambda m: _link(m, here), text)


def _mathml(formula: str, display: str) -> str:
    return str(convert(formula.strip(), display=display))


def _link(match: re.Match[str], here: str) -> str:
    """The link as the site needs it; a folder of the repository is named and not linked to."""
    mark, words, target = match.groups()
    source = _source(_home(here), target)
    if source is None:
        return match[0]
    if (ROOT / source).is_dir():
        return words
    if not (ROOT / source).is_file():
        return match[0]  # MkDocs will say so
    anchor = f"#{target.split('#', 1)[1]}" if "#" in target else ""
    moved = posixpath.relpath(_place(source), posixpath.dirname(here) or ".")
    return f"{mark}[{words}]({moved}{anchor})"


def _home(place: str) -> str:
    """Where in the repository the page at `place` stands."""
    return PLACES.get(place, f"docs/{place}")


def _source(home: str, target: str) -> str | None:
    """The file of the repository that a link leads to; None for links elsewhere or within the page."""
    path = target.split("#", 1)[0]
    if not path or "://" in path or path.startswith(("mailto:", "/")):
        return None
    source = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
    return None if source.startswith("..") else source


def _place(source: str) -> str:
    """Where on the site a file of the repository stands."""
    if source in DOCUMENTS:
        return DOCUMENTS[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    # Not as a page: what is no document here is shown as it stands.
    name = f"{source}.txt" if PurePosixPath(source).suffix in (".md", ".py", "") else source
    return f"repository/{name}"
