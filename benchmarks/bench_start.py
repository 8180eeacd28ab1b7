"""How long do I wait at the start of my program?"""

import os
import subprocess
import sys
import tempfile

import numpy as np

import l2multi as l2
from benchmarks.common import AUTO, WAYS

FIRST = """
import sys, time
import numpy as np
import l2multi as l2
name, m, n = sys.argv[1], *map(int, sys.argv[2].split("x"))
x = np.ones((m, n), np.float32)
start = time.perf_counter()
l2.normalize(x, backend=None if name == "auto" else name)
print(time.perf_counter() - start)
"""


def fresh(code: str, *arguments: str, home: str) -> float:
    """What a new process prints that finds its caches of compiled code under `home`."""
    caches = "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "L2MULTI_CACHE_DIR"
    environment = os.environ | dict.fromkeys(caches, home)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=300
    )
    return float(done.stdout)


class Import:
    """The import alone, what the library adds to NumPy's."""

    def timeraw_import(self) -> tuple[str, str]:
        return "import l2multi", "import numpy"


class FirstCall:
    """The first call of a process, without a cache: what ships with the package needs none."""

    params = (("numba", *WAYS), ("1x768", "100000x768"))
    param_names = ("backend", "shape")
    unit = "s"

    def setup(self, backend: str, shape: str) -> None:
        if backend != AUTO:
            try:
                l2.explain(np.ones(1, np.float32), backend=backend)
            except ImportError as error:
                raise NotImplementedError(str(error)) from None

    def track_first_call(self, backend: str, shape: str) -> float:
        with tempfile.TemporaryDirectory() as home:
            return fresh(FIRST, backend, shape, home=home)
