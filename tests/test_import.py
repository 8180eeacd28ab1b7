"""`import l2multi` is NumPy and nothing heavier; and the measure notices what is."""

import json
import os
import subprocess
import sys

import pytest

BUDGET = 0.015  # seconds on top of `import numpy`, by the contract
HEAVY = {"numba", "llvmlite", "jax", "jaxlib", "scipy", "torch", "asyncio", "ml_dtypes"}

MEASURE = """
import json, os, sys, threading, time
import numpy
import numpy.ma

class Spy(dict):
    read = []
    def __getitem__(self, key):
        self.read.append(str(key))
        return super().__getitem__(key)
    def __contains__(self, key):
        self.read.append(str(key))
        return super().__contains__(key)

def tasks():
    here = "/proc/self/task"
    return len(os.listdir(here)) if os.path.isdir(here) else threading.active_count()

os.environ._data = Spy(os.environ._data)
before, threads = set(sys.modules), tasks()
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
started = tasks() - threads
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"seconds": seconds, "threads": started, "read": Spy.read, "loaded": loaded}))
"""


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Byte code is kept, as it is for an installed package, whatever this environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        measure("l2multi")
        yield


def measure(module, *paths, times=1):
    """What importing a module does in fresh interpreters that have NumPy; the fastest."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    runs = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, module],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        runs.append(json.loads(done.stdout))
        if runs[-1]["seconds"] < BUDGET:
            break
    return min(runs, key=lambda run: run["seconds"])


def problems(run):
    """What the contract forbids."""
    found = {name for name in HEAVY if name in run["loaded"]}
    found |= {"slow"} if run["seconds"] >= BUDGET else set()
    found |= {"threads"} if run["threads"] else set()
    return found | ({"environment"} if run["read"] else set())


def test_import():
    """No heavy module, no thread, no look at the environment, under 15 ms."""
    run = measure("l2multi", times=10)
    assert not problems(run), run


PLANTS = {
    "slow": "import time; time.sleep(0.02)",
    "threads": "import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()",
    "environment": "import os; os.environ.get('L2MULTI_BACKEND')",
    "numba": "import numba",
}


@pytest.mark.parametrize("problem", PLANTS)
def test_the_measure_notices(tmp_path, problem):
    """Each planted problem is found, and a module without any is fine."""
    (tmp_path / "numba.py").write_text("")
    (tmp_path / "sound.py").write_text("import l2multi")
    (tmp_path / "planted.py").write_text(f"import l2multi\n{PLANTS[problem]}")
    assert problems(measure("planted", tmp_path, times=2)) - {"slow"} == {problem} - {"slow"}
    assert problem in problems(measure("planted", tmp_path))
    assert problem not in problems(measure("sound", tmp_path, times=10))


STRICT = """
import sys

class Finder:
    @classmethod
    def find_spec(cls, fullname, path, target):
        return None

sys.meta_path.insert(0, Finder)
import l2multi as l2
print(l2.explain([[3.0, 4.0]]).backend)
"""


def test_finders_that_ask_for_all_arguments():
    """As importlib gives them; asv has one such."""
    done = subprocess.run(
        [sys.executable, "-c", STRICT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "numba\n"
