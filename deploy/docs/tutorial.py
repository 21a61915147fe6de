"""The tutorial's commands, run in their order against a server; `...` in an output stands for anything.

`python -m deploy.docs.tutorial`, with OPENAI_BASE_URL and OPENAI_API_KEY set as the tutorial says, runs them
and writes what they print now where it differs.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/tutorial.md"
BLOCK: Final = re.compile(
    r"^```(sh|python)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
SECONDS: Final = 120


@dataclass(frozen=True)
class Block:
    """One command or program of the page, and what the page says it prints."""

    language: str
    code: str
    output: str
    line: int


def blocks(text: str) -> list[Block]:
    """The page's blocks in order; `output` is empty where none is shown."""
    return [
        Block(match[1], match["code"], match["output"] or "", text[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(text)
    ]


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what the page shows, but for trailing white space and what `...` stands for."""
    parts = [re.escape(part) for part in _trimmed(shown).split("...")]
    return re.fullmatch(".*?".join(parts), _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class Session:
    """A reader at a shell and a Python prompt that stay open from the first block to the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__tutorial__"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "110"}

    def run(self, block: Block) -> str:
        """What the block prints. Raises AssertionError for one that fails."""
        return self._shell(block) if block.language == "sh" else self._python(block)

    def _shell(self, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block.code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise AssertionError(
                f"line {block.line}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def _python(self, block: Block) -> str:
        output = io.StringIO()
        code = compile("\n" * block.line + block.code, str(PAGE), "exec")
        try:
            with redirect_stdout(output):
                exec(code, self.names)  # noqa: S102 - the page's own programs
        except Exception:
            raise AssertionError(f"line {block.line}:\n{output.getvalue()}{traceback.format_exc()}") from None
        return output.getvalue()


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))
        for block in blocks(text):
            printed = session.run(block)
            if matches(block.output, printed):
                continue
            print(f"line {block.line}: the output differs\n{printed}")
            old = f"```{block.language}\n{block.code}```\n" + (
                f"\n```text\n{block.output}```\n" if block.output else ""
            )
            new = f"```{block.language}\n{block.code}```\n\n```text\n{_trimmed(printed)}\n```\n"
            text = text.replace(old, new, 1)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
