"""What tests of file formats share."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from l2multi import _formats, _mapped
from l2multi.files import normalize_file

BEFORE = b"what the target held"


@pytest.fixture
def small_windows(tmp_path, monkeypatch):
    """Windows of so few vectors that small files have many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_formats, "WINDOW", 256)
    monkeypatch.setattr(_mapped, "NEIGHBOURS", 3)


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
