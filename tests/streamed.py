"""What tests of file formats share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2multi import _backends, _formats, _mapped
from l2multi.files import normalize_file

BEFORE = b"what the target held"


@pytest.fixture
def small_windows(tmp_path, monkeypatch):
    """Windows of so few vectors that small files have many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_formats, "WINDOW", 256)
    monkeypatch.setattr(_mapped, "NEIGHBOURS", 3)


@pytest.fixture
def numpy_backend(monkeypatch):
    """NumPy serves, which has the same bits and compiles nothing."""
    monkeypatch.setenv(_backends.ENVIRONMENT, "numpy")


def draw(shape, dtype):
    """Numbers of every dtype, with a zero vector."""
    x = (np.random.default_rng(0).standard_normal(shape) * 100).astype(np.float32)
    x[0] = 0
    return np.abs(x).astype(dtype) if np.dtype(dtype).kind == "u" else x.astype(dtype)


def refused(error, match, source, target, **keywords):
    """A refusal that leaves the target as it was, and nothing beside it."""
    Path(target).write_bytes(BEFORE)
    before = sorted(os.listdir())
    with pytest.raises(error, match=match) as caught:
        normalize_file(source, target, **keywords)
    assert Path(target).read_bytes() == BEFORE
    assert sorted(os.listdir()) == before
    assert "\n" not in str(caught.value)


def write(path, *parts, metadata=None, pad=b""):
    """A file of (name, dtype, array) in this order, by hand."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, dtype, array in parts:
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    raw = json.dumps(header).encode() + pad
    Path(path).write_bytes(len(raw).to_bytes(8, "little") + raw + data)


# Private writable memory is capped at 48 MiB more than a run on a small file has left behind;
# that the cap bites is shown by asking for the size of the large one, 100 MB, in the end.
BOUNDED = """
import json, resource, sys
import numpy as np
from l2multi.files import normalize_file

small, large, target, keywords = sys.argv[1:]
keywords = json.loads(keywords)
normalize_file(small, target, **keywords)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 48 * 2**20,) * 2)
report = normalize_file(large, target, **keywords)
assert report.nbytes == 200_000_000, report
try:
    np.ones(10**8, "u1")
except MemoryError:
    print("bounded")
"""


def bounded(small, large, target, **keywords):
    """A file of 25 million float32 takes little more memory than a small one."""
    command = [sys.executable, "-c", BOUNDED, small, large, target, json.dumps(keywords)]
    environment = {**os.environ, "L2MULTI_BACKEND": "numpy"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout, done.stderr) == ("bounded\n", "")
