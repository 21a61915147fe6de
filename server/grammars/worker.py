"""The process in which grammars are tried out: `python -m server.grammars.worker`.

A line of JSON on standard input is one grammar, and a line on standard output says whether it compiles.
Each is compiled in a process of its own, forked here, that dies when it has used up its time or its memory: a
thread inside native code could not be ended. The first line of all is the tokenizer and the bounds.
"""

import json
import os
import resource
import selectors
import signal
from typing import Any

OK, REFUSED, EXCEEDED, FAILED = 0, 1, 2, 3
NAMES = {OK: "ok", REFUSED: "none", FAILED: "failed"}  # of an outcome; any other end is "exceeded"
CONVERSION = 1.0  # seconds that reading a grammar may take: the server does it again
WALL = 20  # times the time on a CPU that a process may take in all: the machine may be busy


def convert(kind: str, spec: str) -> Any:
    """The grammar, not yet compiled: what the server itself does to find out whether it is one.

    Raises what xgrammar raises for a text that is none.
    """
    from xgrammar import Grammar

    if kind == "structural_tag":
        return Grammar.from_structural_tag(*_tag(spec))
    readers: dict[str, Any] = {
        "json": Grammar.from_json_schema,
        "regex": Grammar.from_regex,
        "lark": Grammar.from_lark,
    }
    return readers.get(kind, Grammar.from_ebnf)(spec)


def compile_grammar(compiler: Any, kind: str, spec: str, any_whitespace: bool) -> None:
    """Compile as vLLM's xgrammar backend does."""
    if kind == "json":
        separators = None if any_whitespace else (",", ":")
        compiler.compile_json_schema(spec, any_whitespace=any_whitespace, separators=separators)
    elif kind == "structural_tag":
        compiler.compile_structural_tag(*_tag(spec))
    else:
        make = {"regex": compiler.compile_regex, "lark": compiler.compile_lark}
        make.get(kind, compiler.compile_grammar)(spec)


def _tag(spec: str) -> tuple[Any, ...]:
    """The arguments of a structural tag, of which there is an older form."""
    from xgrammar import StructuralTagItem

    tag = json.loads(spec)
    if "structures" not in tag:
        return (spec,)
    items = [
        StructuralTagItem(begin=s["begin"], schema=json.dumps(s["schema"]), end=s["end"])
        for s in tag["structures"]
    ]
    return items, tag["triggers"]


def bound(seconds: float, mib: int) -> None:
    """End this process when it has computed for so long, or taken so much more memory."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)
    most = memory("VmSize") + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory(name: str) -> int:
    """A figure of this process's address space, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


class Worker:
    """Forks a process for each grammar and says how each of them ended."""

    def __init__(self, header: dict[str, Any]) -> None:
        import xgrammar

        self.info = xgrammar.TokenizerInfo.deserialize_json(header["tokenizer"])
        self.make = xgrammar.GrammarCompiler
        self.seconds, self.mib = header["seconds"], header["mib"]
        self.jobs: dict[int, int] = {}  # by process id

    def start(self, job: dict[str, Any]) -> None:
        process = os.fork()
        if process:
            self.jobs[process] = job["id"]
            return
        outcome = EXCEEDED
        try:
            bound(self.seconds, self.mib)
            outcome = self.tried(job)
        finally:
            os._exit(outcome)

    def tried(self, job: dict[str, Any]) -> int:
        """Convert and compile; what is no grammar is left to the server, which says what is wrong with it."""
        signal.setitimer(signal.ITIMER_PROF, min(self.seconds, CONVERSION))
        before = memory("VmSize")
        try:
            convert(job["kind"], job["spec"])
        except Exception:
            return EXCEEDED if self.short(before) else REFUSED
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        # As vLLM makes its compiler: with the cache, xgrammar fails on grammars that it compiles without.
        # Only the eight threads are left out, whose memory would be taken for the grammar's.
        compiler = self.make(self.info, max_threads=1, cache_enabled=True)
        try:
            compile_grammar(compiler, job["kind"], job["spec"], job["any_whitespace"])
        except Exception:
            return EXCEEDED if self.short(before) else FAILED
        return OK

    def short(self, before: int) -> bool:
        """Whether it may be memory that was missing: xgrammar raises the same as for a text that is wrong."""
        return memory("VmPeak") - before > self.mib << 19

    def reap(self) -> None:
        while self.jobs:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            code = os.waitstatus_to_exitcode(status)
            outcome = NAMES.get(code, "exceeded")
            print(json.dumps({"id": self.jobs.pop(process), "outcome": outcome}), flush=True)


def main() -> None:
    """Serve until standard input ends; what runs then is ended too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    for descriptor in (0, woken):
        selector.register(descriptor, selectors.EVENT_READ)
    worker: Worker | None = None
    pending = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 1 << 16)
            if key.fd == woken:
                assert worker is not None
                worker.reap()
                continue
            if not data:
                for process in worker.jobs if worker is not None else ():
                    os.kill(process, signal.SIGKILL)
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if worker is None:
                    worker = Worker(json.loads(line))
                else:
                    worker.start(json.loads(line))


if __name__ == "__main__":
    main()
