"""`decant rank`: candidate answers to one question, or to those of a JSONL file, ranked by a server."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from tqdm import tqdm

from decoders.sequence.candidates.game import Rule
from server import rank_show
from server.calibration import plot
from server.calibration.connect import connected
from server.calibration.errors import CalibrationError
from server.calibration.settings import KEY_VARIABLE, PLOTS

INTERRUPTED: Final = 130
FIELDS: Final = ("prompt", "messages", "candidates", "answer")
PATH: Final = "/v1/rank"


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(list(arguments))
    if problem := _problem(options):
        parser.error(problem)
    try:
        if options.plot is not None:
            plot.require()
        questions = _questions(options)
        answers = asyncio.run(_ask(options, questions))
        _show(options, questions, answers)
    except CalibrationError as error:
        print(f"decant: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decant rank",
        description="Rank candidate answers by generator, discriminator and their equilibrium.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("question", nargs="?", help="the question")
    add("candidates", nargs="*", help="its candidate answers, two at least")
    add("--data", type=Path, help="JSONL; in each line prompt or messages, candidates, and perhaps answer")
    add("--out", type=Path, help="write each line's ranking here, as JSONL; with --data")
    add("--text", action="store_true", help="put the question as plain text, not as a chat's message")
    add("--ranking", choices=get_args(Rule), default="er_d", help="the rule that orders (default: er_d)")
    add("--iterations", type=int, default=5000, help="rounds of the game (default: 5000)")
    add("--by-token", action="store_true", help="mean log-probability of an answer's tokens, not their sum")
    add("--plot", type=Path, help=f"draw the policies' trajectories into this {' or '.join(PLOTS)} file")
    add("--json", action="store_true", help="print the server's response in place of a table")
    add("--url", help="a running Decant server; left out, one is started")
    add("--config", type=Path, help="configuration of the server to start; left out, the embedded models")
    add("--model", help="model id; the server's own if left out")
    add("--api-key", help=f"the server's API key; others can read flags: prefer {KEY_VARIABLE}")
    add("--concurrency", type=int, default=8, help="requests at once, with --data (default: 8)")
    return parser


def _problem(options: argparse.Namespace) -> str | None:
    """What is wrong with the flags, in words; None if nothing is."""
    if (options.question is None) == (options.data is None):
        return "give either a question with its candidates, or --data"
    if options.data is None and len(options.candidates) < 2:
        return "at least two candidates are needed"
    if options.data is None and options.out is not None:
        return "--out does nothing without --data"
    if options.data is not None and (options.plot is not None or options.json):
        return "--plot and --json are for one question; leave them out beside --data"
    if options.url is not None and options.config is not None:
        return "--config is for a server to start; give --url or --config, not both"
    if options.url is None and options.api_key is not None:
        return "--api-key does nothing without --url: a server that is started here gets its own"
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        return "--url must begin with http:// or https://"
    if options.plot is not None and options.plot.suffix not in PLOTS:
        return f"--plot must end in {' or '.join(PLOTS)}"
    if options.concurrency < 1:
        return "--concurrency must be at least 1"
    folders = [path.parent for path in (options.plot, options.out) if path is not None]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    return f"the folder {missing[0]} does not exist" if missing else None


def _questions(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The requests, without what all of them share; `answer` is kept apart by the caller."""
    if options.data is None:
        asked = {"prompt": options.question} if options.text else {"messages": _turn(options.question)}
        return [{**asked, "candidates": options.candidates}]
    try:
        lines = options.data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{options.data} cannot be read: {error}") from None
    found = [
        {"line": number, **_question(f"{options.data}, line {number}", line, options.text)}
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise CalibrationError(f"{options.data} holds no questions")
    return found


def _question(where: str, line: str, text: bool) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: not JSON: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("candidates"), list):
        raise CalibrationError(f"{where}: an object with prompt or messages, and candidates, is needed")
    if unknown := next((name for name in raw if name not in FIELDS), None):
        raise CalibrationError(f"{where}: {unknown[:64]!r} is no field; there are {', '.join(FIELDS)}")
    if ("prompt" in raw) == ("messages" in raw):
        raise CalibrationError(f"{where}: either prompt or messages is needed")
    if "answer" in raw and raw["answer"] not in raw["candidates"]:
        raise CalibrationError(f"{where}: answer must be one of the candidates")
    if "prompt" in raw and not text:
        raw["messages"] = _turn(raw.pop("prompt"))
    return raw


def _turn(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


async def _ask(options: argparse.Namespace, questions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    shared = {
        "ranking": options.ranking,
        "iterations": options.iterations,
        "by_token": options.by_token,
        **({"model": options.model} if options.model else {}),
    }
    url = options.url.rstrip("/").removesuffix("/v1") if options.url is not None else None
    key = options.api_key or os.environ.get(KEY_VARIABLE)
    async with connected(url, key, options.config, options.concurrency) as client:
        quiet = True if options.data is None else None  # None: shown on a terminal
        bar = tqdm(total=len(questions), unit="question", disable=quiet, file=sys.stderr, dynamic_ncols=True)
        gate = asyncio.Semaphore(options.concurrency)

        async def one(question: Mapping[str, Any]) -> dict[str, Any]:
            body = {key: value for key, value in question.items() if key not in ("line", "answer")}
            about = f"line {question['line']}: " if "line" in question else ""
            async with gate:
                reply = await client.post(PATH, {**shared, **body}, about)
            bar.update()
            return dict(reply.body)

        with bar:
            return list(await asyncio.gather(*map(one, questions)))


def _show(
    options: argparse.Namespace, questions: Sequence[Mapping[str, Any]], answers: Sequence[dict[str, Any]]
) -> None:
    if options.data is None:
        print(json.dumps(answers[0], indent=2)) if options.json else rank_show.table(answers[0])
        if options.plot is not None:
            rank_show.draw(answers[0], options.plot)
            print(f"The trajectories are in {options.plot}.")
        return
    lines = [
        json.dumps({"line": question["line"], **answer})
        for question, answer in zip(questions, answers, strict=True)
    ]
    if options.out is None:
        print("\n".join(lines))
    else:
        try:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            raise CalibrationError(f"{options.out} cannot be written: {error.strerror}") from None
        print(f"The rankings of {len(lines)} questions are in {options.out}.", file=sys.stderr)
    right = [
        (question["answer"], answer)
        for question, answer in zip(questions, answers, strict=True)
        if "answer" in question
    ]
    if right:
        rank_show.accuracies(right)
