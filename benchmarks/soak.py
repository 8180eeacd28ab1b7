"""A soak: calls of all kinds for long, from threads and in forks, each answer checked.

``python -m benchmarks.soak MINUTES`` draws calls as `tests.anything` does (any container, shape,
axis, dtype, layout, magnitude and keyword, policies that raise among them), and compares each
answer with exact integers and with the bits of the NumPy backend. Memory, descriptors and threads
are sampled; that they are flat is asked of the second half, for what is compiled or loaded once is
kept.
"""

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from l2multi import _backends
from tests import anything, conftest

THREADS = 3
PROGRAMS = 40  # kinds of calls on a subject that compiles for each
PATIENCE = 120  # seconds that a fork may take for its calls; then it tells where it is
MEGABYTES = 32  # by which memory may grow in the second half: what an allocator keeps

# What a child of a process with threads may do: calls that are served without another library's
# threads.
IN_FORKS = (
    "numpy", "numba:serial", "numba:parallel", "numba:auto", "numba:list", "numba:memory map",
    "numba:masked entries", "numpy:recarray", "numba:csr_array",
)  # fmt: skip
COMPILED_EACH_TIME = ("jax:jit", "jax:auto", "jax:BCSR")


class Sample(NamedTuple):
    """What a process holds."""

    minute: float
    calls: int
    forks: int
    megabytes: float
    descriptors: int
    threads: int


class Soak:
    """The counts of a run."""

    def __init__(self, only: str, seed: int) -> None:
        self.only, self.seed, self.begin = only, seed, time.monotonic()
        self.calls = self.forks = 0
        self.faults: list[str] = []
        self.by_subject: dict[str, int] = {}

    def subjects(self) -> list[Any]:
        """New ones, for they are not made for threads."""
        found = []
        for name in _backends.NAMES:
            with contextlib.suppress(ImportError):
                found += conftest._subjects(_backends.first(name))
        return [s for s in found if self.only in s.variant and s.variant not in COMPILED_EACH_TIME]

    def work(self, subjects: list[Any], seed: int, count: int) -> None:
        """So many calls."""
        rng = random.Random(seed)
        for _ in range(count):
            subject = rng.choice(subjects)
            # Of what compiles for each call a few: programs are kept.
            pick = random.Random(rng.randrange(PROGRAMS)) if subject.compiles_shapes else rng
            call = anything.drawn(pick.choice, subject, large=rng.random() < 0.2)
            call = call._replace(seed=rng.randrange(1000))
            try:
                anything.answered(subject, call)
            except Exception:
                self.faults.append(f"{subject} {call}\n{traceback.format_exc()}")
            self.calls += 1
            self.by_subject[subject.variant] = self.by_subject.get(subject.variant, 0) + 1

    def forked(self, subjects: list[Any], seed: int) -> None:
        """Calls in a child, which must end, and well."""
        subjects = [s for s in subjects if s.variant in IN_FORKS]
        if not subjects:
            return
        before = len(self.faults)
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            self.work(subjects, seed, 5)
            for fault in self.faults[before:]:
                print(fault, file=sys.stderr, flush=True)
            os._exit(len(self.faults) > before)
        self.forks += 1
        _, ended = os.waitpid(child, 0)
        if ended:
            self.faults.append(f"a fork ended with {ended}, seed {seed}")

    def sample(self) -> Sample:
        """What this process holds now."""
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return Sample(
            round((time.monotonic() - self.begin) / 60, 1),
            self.calls,
            self.forks,
            round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1),
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
        )


def soak(
    minutes: float, only: str = "", seed: int = 0, tell: Callable[[Sample], Any] = print,
    share: float = 1,
) -> tuple[Soak, list[Sample]]:  # fmt: skip
    """Run for so long, with this share of the time busy; what was sampled once a minute."""
    run = Soak(only, seed)
    own = [run.subjects() for _ in range(THREADS + 1)]
    # Each once before any fork: a module that a thread is importing stays locked in a child.
    for subject in own[0]:
        run.work([subject], seed, 1)
    samples: list[Sample] = []
    end, rounds = run.begin + 60 * minutes, 0
    while time.monotonic() < end or not rounds:
        began, first = time.monotonic(), seed + rounds * (THREADS + 2)
        threads = [
            threading.Thread(target=run.work, args=(own[i], first + i, 20)) for i in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        run.forked(own[-1], first + THREADS)
        run.work(own[-1], first + THREADS + 1, 20)
        for thread in threads:
            thread.join()
        rounds += 1
        if not samples or time.monotonic() - run.begin > 60 * len(samples):
            samples.append(run.sample())
            tell(samples[-1])
        time.sleep((time.monotonic() - began) * (1 / share - 1))
    samples.append(run.sample())
    tell(samples[-1])
    return run, samples


def grown(samples: list[Sample]) -> list[str]:
    """What was not flat in the second half."""
    middle, last = samples[(len(samples) - 1) // 2], samples[-1]
    found = []
    if last.megabytes > middle.megabytes + MEGABYTES:
        found.append(f"memory from {middle.megabytes} to {last.megabytes} MB")
    for name in ("descriptors", "threads"):
        before, after = getattr(middle, name), getattr(last, name)
        if after > before:
            found.append(f"{name} from {before} to {after}")
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.soak")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--only", default="", help="subjects whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1, help="of the time to be busy [1]")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    run, samples = soak(
        arguments.minutes, arguments.only, arguments.seed,
        lambda sample: print(json.dumps(sample._asdict()), flush=True), arguments.share,
    )  # fmt: skip
    for fault in run.faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps(dict(sorted(run.by_subject.items()))))
    bad = grown(samples)
    first, middle, last = samples[0], samples[(len(samples) - 1) // 2], samples[-1]
    print(
        f"{last.calls:,} calls and {last.forks:,} forks in {last.minute:.0f} minutes, "
        f"{len(run.faults)} faults; at the begin, in the middle and at the end "
        + "; ".join(
            f"{name} {getattr(first, name)}, {getattr(middle, name)}, {getattr(last, name)}"
            for name in ("megabytes", "descriptors", "threads")
        )
        + "".join(f"; NOT FLAT: {one}" for one in bad)
    )
    return bool(run.faults or bad)


if __name__ == "__main__":
    sys.exit(main())
