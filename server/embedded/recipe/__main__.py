"""`python -m server.embedded.recipe STAGE`: make the embedded family, one stage or all of it."""

import argparse
import os
import tempfile
import time
from pathlib import Path

# Must be set before torch starts its threads: idle ones would spin on the cores that the others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

from .documents import corpus_digest
from .evaluate import evaluate_family
from .reward import train_reward
from .tokenizer import build_tokenizer, read_tokenizer, tokenizer_digest, write_tokenizer
from .train import PLANS, Settings, native_dtype, train_model

STAGES = ("tokenizer", "small", "base", "polite", "brief", "evaluate")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m server.embedded.recipe", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1], help="folder of the models"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(tempfile.gettempdir()) / "decant-recipe",
        help="folder of caches and results",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the matrix products")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every budget, for a trial run")
    parser.add_argument("--first-stage", type=int, default=1, help="stage of small or base to resume at")
    parser.add_argument("--split", choices=["dev", "test"], default="dev", help="items to evaluate on")
    parser.add_argument("--items", type=int, default=100, help="items of each kind to evaluate on")
    return parser.parse_args()


def make_tokenizer(out: Path) -> None:
    """Build the tokenizer and write it into every model folder."""
    tokenizer = build_tokenizer()
    for name in ("base", "small", "polite", "brief"):
        write_tokenizer(tokenizer, out / name)
    print(f"corpus {corpus_digest()}\ntokenizer {tokenizer_digest(tokenizer)}", flush=True)


def run_stage(stage: str, arguments: argparse.Namespace) -> None:
    """Run one stage."""
    settings = Settings(arguments.out, arguments.scratch, arguments.scale, native_dtype())
    if stage == "tokenizer":
        make_tokenizer(settings.out)
        return
    if stage == "evaluate":
        evaluate_family(settings.out, arguments.split, arguments.items, settings.scratch)
        return
    tokenizer = read_tokenizer(settings.out / "base")
    if stage in PLANS:
        train_model(stage, tokenizer, settings, arguments.first_stage)
    else:
        train_reward(stage, tokenizer, settings)


def main() -> None:
    """Run the stages asked for."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        start = time.process_time()
        run_stage(stage, arguments)
        print(f"stage {stage}: {time.process_time() - start:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
