"""Write the reference pages and fill in the generated blocks: `python -m deploy.docs [--check]`."""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
BLOCK: Final = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def expected() -> dict[Path, str]:
    """Every page with something generated in it, as it ought to be. Raises KeyError for an unknown block."""
    from deploy.docs.methods import blocks
    from deploy.docs.reference import pages

    found = {DOCS / name: page() for name, page in pages().items()}
    texts = blocks()
    for path in sorted(DOCS.rglob("*.md")):
        content = path.read_text(encoding="utf-8")
        if path not in found and "<!-- generated:" in content:
            found[path] = BLOCK.sub(lambda m: f"{m[1]}\n{texts[m[2]]}\n\n{m[3]}", content)
    return found


def stale() -> list[Path]:
    """The pages that are not as the code would have them."""
    return [
        path
        for path, text in expected().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    from server.environment import prepare

    prepare(engines=1, threads_per_engine=1, vllm_log_level="error", stop_strings=4)  # before vLLM
    old = stale()
    for path in old:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(expected()[path], encoding="utf-8")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
