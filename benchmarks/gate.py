"""The gate: fails where this tree is slower than a base by 1.25x, and only there.

``python -m benchmarks.gate`` compares with main (``--base COMMIT`` or ``--base DIRECTORY``) and
exits 1 on a slowdown, 0 otherwise. On main itself: ``--base main~1``.

How it keeps calm on a noisy machine. Each version lives in a process of its own; the two take turns
of some milliseconds, so that whatever else goes on meets both. A turn counts with its fastest part,
for noise only ever adds time. There are two estimates: the median of the ratios of neighbouring
turns, which a slow drift cannot move, and the ratio of the fastest turns, which a busy neighbour
cannot. If either looks slow, the case is measured again there and then, and if it still does in new
processes, where memory lies otherwise; it fails if both say so, and in three pairs of five. Most
cases run on one thread, for a neighbour on the second core makes two threads wait for milliseconds.
The kernels' machine code is looked at too, which no neighbour can disturb: each has to do its
arithmetic in the machine's wide registers. The measuring code is this tree's, on both sides.

``--plant 1.3`` adds busy work to this tree's side: a test of the gate.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

SUSPECT = 1.10  # worth a second look
FAIL = 1.15  # between what noise leaves after some looks and the 1.25 that has to be found
LOOKS = 5  # of which more than half decide
TURNS = 20
PART, TURN = 3e-4, 3e-3  # seconds: the shortest part of a turn, and a turn
SETTLE = 2e-3  # for OpenMP threads to stop spinning, which would disturb the other process

# operation, dtype, layout, shape: each path through a backend once, small and large.
CASES = (
    ("new", "float32", "rows", "1x128"),
    ("new", "float32", "rows", "100x768"),
    ("new", "float32", "rows", "1000x768"),
    ("new", "float64", "rows", "1000x768"),
    ("new", "float16", "rows", "1000x768"),
    ("new", "int8", "rows", "1000x768"),
    ("new", "complex64", "rows", "1000x768"),
    ("new", "float32", "columns", "1000x768"),
    ("new", "float32", "middle axis", "1000x768"),
    ("new", "float32", "rows", "100000x3"),
    ("new", "float32", "rows", "1x1000000"),
    ("out", "float32", "rows", "20000x768"),
    ("inplace", "float32", "rows", "20000x768"),
    ("return_norm", "float32", "rows", "1x768"),
    ("norm", "float32", "rows", "1x128"),
    ("norm", "float32", "rows", "1000x768"),
    ("cast", "float32", "rows", "1000x768"),
)
# Where no backend is named: what comes before the kernel matters for small arrays only.
SMALL = tuple(case for case in CASES if case[3] in ("1x128", "1x768", "100x768"))
# With as many threads as there are cores.
LARGE = (
    ("new", "float32", "rows", "1000x768"),
    ("out", "float32", "rows", "20000x768"),
    ("new", "float32", "columns", "4000x768"),
    ("norm", "float32", "rows", "1x4000000"),
)

# Of 20000x768, whose time is that of memory: those that are made of a library's operations take 60
# times as long for it, and say what 1000x768 says.
FUSED = ("numba", "jax")

Case = tuple[str, ...]


def cases() -> list[Case]:
    """How many cores, which backend, and what to do."""
    from benchmarks import common

    found: list[Case] = [("serial", common.AUTO, *case) for case in SMALL]
    found += [("serial", name, *case) for name in common.BACKENDS for case in CASES]
    found += [("parallel", name, *case) for name in common.BACKENDS for case in LARGE]
    return [case for case in found if case[1] in FUSED or case[-1] != "20000x768"]


# One version's process


def serve(tree: str, on: str, plant: float) -> None:
    """Answer the lines on stdin, one JSON object each, with the library of `tree`."""
    if on == "serial" and hasattr(os, "sched_setaffinity"):  # before libraries start threads
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # The directory of this file is that of the measuring code, and the library beside it is not
    # what is to be measured unless asked for: l2multi comes first, from where it should.
    sys.path.insert(0, tree)
    import l2multi

    if Path(l2multi.__file__).resolve().parent.parent != Path(tree).resolve():
        raise SystemExit(f"l2multi came from {l2multi.__file__}, not from {tree}")
    from benchmarks import common

    common.keep_memory()
    reply, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    call: common.Call | None = None
    extra = 0.0
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        if "case" in order:
            _, backend, operation, dtype, layout, shape = order["case"]
            call = None  # frees the last one's arrays
            try:
                x, axis = common.array(shape, dtype, layout)
                call = common.ours(common.Work(operation, axis), x, backend)
                once = min(common.burst(call, common.repeats_for(call, PART)) for _ in range(5))
                answer["seconds"] = once
                extra = (plant - 1) * once
            except NotImplementedError as error:
                answer["skipped"] = str(error)
        elif "repeats" in order:
            answer["seconds"] = turn(call, order["repeats"], extra)
        elif "code" in order:
            answer["code"] = common.machine_code()
        print(json.dumps(answer), file=reply, flush=True)


def turn(call: Any, repeats: int, extra: float) -> float:
    """Seconds per call in the fastest part of a turn; `extra` seconds of each are busy work."""
    from benchmarks import common

    call()
    parts = []
    end = time.perf_counter() + TURN
    while len(parts) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        common.burst(call, repeats)
        until = time.perf_counter() + extra * repeats
        while extra and time.perf_counter() < until:
            pass
        parts.append((time.perf_counter() - start) / repeats)
    return min(parts)


# The machine code


def registers() -> str:
    """A pattern for packed float64 arithmetic in the widest registers that compilers use here."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        from llvmlite import binding

        features = binding.get_host_cpu_features()
        # With AVX-512 LLVM may prefer 256 bits, where a processor slows down for more.
        wide = "[yz]mm" if features.get("avx") else "xmm"
        return rf"\bv?(?:add|mul|div)pd\b.*%{wide}"
    return r"\bf(?:add|mul|div)(?:\.2d\b|\s+v\d+\.2d)"


def narrow(code: dict[str, str], pattern: str) -> list[str]:
    """The kernels that do no arithmetic in wide registers."""
    return [name for name, assembly in code.items() if not re.search(pattern, assembly)]


# The comparison

Process = subprocess.Popen[str]


def start(tree: Path, home: Path, on: str, plant: float = 1.0) -> Process:
    """The process of one version, which answers an order at a time."""
    environment = {k: v for k, v in os.environ.items() if k != "L2MULTI_BACKEND"}
    caches = "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "L2MULTI_CACHE_DIR"
    environment |= dict.fromkeys(caches, str(home))
    command = [sys.executable, "-m", "benchmarks.gate", "--serve", str(tree)]
    command += ["--on", on, "--plant", str(plant)]
    pipe = subprocess.PIPE
    return Process(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)


def ask(process: Process, **order: Any) -> dict[str, Any]:
    """One order, one answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a version's process ended, with status {process.wait()}")
    return json.loads(line)  # type: ignore[no-any-return]


class Comparison(NamedTuple):
    """This tree and a base, and how often to measure."""

    base: Path
    scratch: Path
    plant: float
    turns: int

    @contextlib.contextmanager
    def sides(self, on: str) -> Iterator[tuple[Process, Process]]:
        """New processes of both versions, which end with their input."""
        with (
            start(ROOT, self.scratch / "new", on, self.plant) as new,
            start(self.base, self.scratch / "old", on) as old,
        ):
            yield new, old

    def ratios(self, sides: tuple[Process, Process], case: Case) -> tuple[float, float] | str:
        """This tree's time over the base's, estimated in two ways; or why there is none."""
        new, old = (ask(side, case=case) for side in sides)
        if "skipped" in new:
            return str(new["skipped"]) if "skipped" in old else "LOST: " + str(new["skipped"])
        if "skipped" in old:
            return "the base cannot do it"
        repeats = max(1, round(PART / old["seconds"]))
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(self.turns):
            for which in (0, 1) if number % 2 else (1, 0):
                time.sleep(SETTLE)
                times[which].append(ask(sides[which], repeats=repeats)["seconds"])
        return estimates(*times)

    def look(self, case: Case) -> float:
        """The more lenient of the estimates, in new processes."""
        with self.sides(case[0]) as sides:
            found = self.ratios(sides, case)
        assert not isinstance(found, str)
        return min(found)


def estimates(new: list[float], old: list[float]) -> tuple[float, float]:
    """How much slower the new side is: the median over pairs of turns, and at its fastest."""
    ratios = sorted(a / b for a, b in zip(new, old, strict=True))
    return ratios[len(ratios) // 2], min(new) / min(old)


def judge(looks: Iterator[float]) -> tuple[bool, list[float]]:
    """Whether most looks find a case slow, and what they found, as far as it takes to tell."""
    seen: list[float] = []
    slow = 0
    for found in looks:
        seen.append(found)
        slow += found >= FAIL
        if 2 * max(slow, len(seen) - slow) > LOOKS:
            break
    return 2 * slow > LOOKS, seen


def compare(comparison: Comparison, cases: list[Case]) -> list[str]:
    """What is wrong with this tree: a line for each case."""
    wrong: list[str] = []
    suspects: list[Case] = []
    skipped: dict[str, int] = {}
    for on in dict.fromkeys(case[0] for case in cases):
        members = [case for case in cases if case[0] == on]
        with comparison.sides(on) as sides:
            for case in members:
                found = comparison.ratios(sides, case)
                if isinstance(found, str):
                    if found.startswith("LOST"):
                        wrong.append(f"{' '.join(case)}: {found}")
                    skipped[found] = skipped.get(found, 0) + 1
                    continue
                print(f"{found[0]:6.3f} {found[1]:6.3f}  {' '.join(case)}", flush=True)
                if max(found) >= SUSPECT:
                    # New processes take ten times as long as another look by these.
                    again = comparison.ratios(sides, case)
                    assert not isinstance(again, str)
                    print(f"{again[0]:6.3f} {again[1]:6.3f}  the same again", flush=True)
                    if max(again) >= SUSPECT:
                        suspects.append(case)
            if code := ask(sides[0], code=True)["code"]:
                bad = narrow(code, registers())
                print(f"  code  {len(code) - len(bad)} of {len(code)} kernels are wide")
                wrong += [f"no wide registers ({registers()}) in {name}" for name in bad]
    for reason, count in skipped.items():
        print(f"     -  {count} skipped: {reason}")
    for case in suspects:
        slow, seen = judge(comparison.look(case) for _ in range(LOOKS))
        line = f"{' '.join(case)}: {', '.join(f'{one:.3f}' for one in seen)}"
        print(f"again:  {line}", flush=True)
        if slow:
            wrong.append(f"slower than the base: {line}")
    return wrong


@contextlib.contextmanager
def checked_out(base: str) -> Iterator[Path]:
    """A directory with the library of a commit; or the one given."""
    if Path(base).is_dir():
        yield Path(base).resolve()
        return
    with tempfile.TemporaryDirectory() as directory:
        git = ["git", "-C", str(ROOT), "archive", "--format=tar", base, "l2multi"]
        archive = subprocess.run(git, check=False, capture_output=True)
        if archive.returncode:
            raise ValueError(f"--base {base}: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        yield Path(directory)


def main(arguments: list[str] | None = None) -> int:
    """Compare, report, and say by the exit status whether something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="main", help="a commit or a directory [main]")
    parser.add_argument("--plant", type=float, default=1.0, help="slow this tree down: a test")
    parser.add_argument("--only", default="", help="cases whose name holds this, as 'numba new'")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each side [{TURNS}]")
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    parser.add_argument("--on", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.on, options.plant)
        return 0
    known = cases()
    wanted = [case for case in known if options.only in " ".join(case)]
    if not wanted:
        there = "".join(f"\n  {' '.join(case)}" for case in known)
        parser.error(f"--only {options.only}: no such case; there are{there}")
    if options.turns < 1:
        parser.error(f"--turns {options.turns}: at least one is needed")
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        try:
            base = stack.enter_context(checked_out(options.base))
        except ValueError as error:
            parser.error(str(error))  # 2, for 1 says that something is slower
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        comparison = Comparison(base, Path(scratch), options.plant, options.turns)
        wrong = compare(comparison, wanted)
    print(f"{len(wanted)} cases against {options.base} in {time.perf_counter() - began:.0f} s")
    for line in wrong:
        print(f"FAIL  {line}")
    if not wrong:
        print("ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
