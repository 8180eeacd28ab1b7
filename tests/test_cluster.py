"""Zarr stores and arrays on a cluster: the bits of one machine, whatever becomes of the workers."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import l2multi as l2
from l2multi import _formats
from l2multi.cli import main
from l2multi.files import normalize_file
from tests.streamed import draw

zarr = pytest.importorskip("zarr")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
cluster = pytest.importorskip("l2multi.dask")
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:distributed")


@pytest.fixture(scope="module")
def client():
    """Two workers in this process."""
    options = {"processes": False, "n_workers": 2, "threads_per_worker": 1}
    with distributed.Client(**options, dashboard_address=None) as found:
        yield found


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A group with an array in chunks that cut vectors, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_formats, "WINDOW", 256)
    x = draw((23, 17), np.float32)
    x[4, 3], x[8, 1] = np.inf, np.nan
    root = zarr.create_group("in.zarr")
    root.create_array("emb", data=x, chunks=(5, 4))
    root.create_array("ids", data=np.arange(23))
    return x


def same(one, other):
    """Whether two folders hold the same files."""
    names = [
        sorted(p.relative_to(f) for p in Path(f).rglob("*") if p.is_file()) for f in (one, other)
    ]
    assert names[0] == names[1]
    return all(filecmp.cmp(Path(one, n), Path(other, n), shallow=False) for n in names[0])


@pytest.mark.parametrize("axis", [-1, 0, None])
def test_as_one_machine(client, store, axis):
    """The same files and the same report."""
    keywords = {"axis": axis, "tensor": "emb", "dtype": "float64"}
    steps = []
    report = cluster.normalize_zarr(
        "in.zarr", "out.zarr", client=client, progress=lambda *at: steps.append(at), **keywords
    )
    alone = normalize_file("in.zarr", "alone.zarr", **keywords)
    assert same("out.zarr", "alone.zarr")
    assert report._replace(seconds=alone.seconds, target="alone.zarr") == alone
    assert steps[0] == (0, report.vectors)
    assert steps[-1] == (report.vectors, report.vectors)
    assert sorted(os.listdir()) == ["alone.zarr", "in.zarr", "out.zarr"]
    want = l2.normalize(store, axis, dtype="float64")
    assert zarr.open_array("out.zarr/emb", mode="r")[:].tobytes() == want.tobytes()


@pytest.mark.parametrize("axis", [-1, 0, None])
def test_norms_and_dry_run(client, store, axis):
    keywords = {"axis": axis, "tensor": "emb", "client": client}
    cluster.normalize_zarr("in.zarr", "out.zarr", norms="n.npy", **keywords)
    assert np.load("n.npy").tobytes() == l2.norm(store, axis).tobytes()
    report = cluster.normalize_zarr("in.zarr", "x.zarr", norms="m.npy", dry_run=True, **keywords)
    alone = normalize_file("in.zarr", "x.zarr", axis, tensor="emb", dry_run=True)
    assert report._replace(seconds=alone.seconds) == alone
    assert sorted(os.listdir()) == ["in.zarr", "n.npy", "out.zarr"]


def test_dims_and_the_last_client(client, store):
    cluster.normalize_zarr("in.zarr", "out.zarr", tensor="emb", dims=3)
    got = zarr.open_array("out.zarr/emb", mode="r")[:]
    assert got.tobytes() == l2.normalize(store[:, :3]).tobytes()


@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"zero": "raise"}, l2.ZeroVectorError, "1 of 23 vectors, the first at position 0 of"),
        ({"nonfinite": "raise"}, l2.NonFiniteError, "2 of 23 vectors, the first at position 4 of"),
        ({"zero": "drop"}, ValueError, "zero: drop is for vectors in the rows of a file, got"),
        ({"zero": "null"}, ValueError, "zero: null is for columns, which can hold nulls; this .z"),
        ({"zero": "no"}, ValueError, "zero: expected one of"),
        ({"norms": "out.zarr/n.npy"}, ValueError, "norms: expected another file than source and"),
        ({"norms": "n.npy", "zero": "raise"}, l2.ZeroVectorError, "1 of 23 vectors"),
        ({"dry_run": True, "nonfinite": "raise"}, l2.NonFiniteError, "2 of 23 vectors"),
        ({"tensor": "none"}, ValueError, "tensor: expected one of those"),
        ({"backend": "none"}, ValueError, "backend: unknown name"),
        ({"dtype": "bfloat16"}, TypeError, "has no name in a .zarr"),
    ],
)
def test_refusals_leave_nothing(client, store, keywords, error, told):
    with pytest.raises(error, match=told):
        cluster.normalize_zarr(
            "in.zarr", "out.zarr", client=client, **{"tensor": "emb", **keywords}
        )
    assert os.listdir() == ["in.zarr"]


def test_damage_leaves_nothing(client, store):
    """Nor do workers that were still writing."""
    chunk = max(Path("in.zarr/emb/c").rglob("*"), key=lambda path: path.is_file())
    chunk.write_bytes(b"?")
    with pytest.raises(ValueError, match="source: a chunk cannot be read"):
        cluster.normalize_zarr("in.zarr", "out.zarr", tensor="emb", client=client)
    assert os.listdir() == ["in.zarr"]
    with pytest.raises(ValueError, match=r"expected a .zarr folder"):
        cluster.normalize_zarr("in.npy", "out.zarr", client=client)


def test_what_a_killed_worker_left_is_removed(client, store, monkeypatch):
    """zarr writes a chunk beside its place first."""

    def litter(done, total):
        (found,) = Path().glob(".l2multi-*.tmp")
        (found / "emb/c/0").mkdir(parents=True, exist_ok=True)
        (found / "emb/c/0/0.123.partial").write_bytes(b"half")

    Path("in.zarr/emb/notes.partial").write_text("of the owner")
    cluster.normalize_zarr("in.zarr", "out.zarr", tensor="emb", client=client, progress=litter)
    left = [path.name for path in Path("out.zarr").rglob("*.partial")]
    assert left == ["notes.partial"]


def test_the_command(client, store, capsys):
    """Which names the scheduler, or has one started."""
    asked = ["normalize", "in.zarr", "out.zarr", "--tensor", "emb", "--dask"]
    assert main([*asked, client.scheduler.address]) == 0
    assert "vectors" in capsys.readouterr().out
    normalize_file("in.zarr", "alone.zarr", tensor="emb")
    assert same("out.zarr", "alone.zarr")
    if sys.platform == "linux":  # which can replace a folder
        assert main([*asked, client.scheduler.address, "--return-norms", "n.npy"]) == 0
        assert same("out.zarr", "alone.zarr")
        assert os.path.exists("n.npy")
    assert main([*asked, "local", "--column", "a"]) == 2
    assert "it is for one .zarr, which has no columns" in capsys.readouterr().err


def test_arrays(client):
    """By the distributed scheduler; policies raise there."""
    x = np.random.default_rng(0).standard_normal((9, 10))
    for chunks in ((4, 10), (4, 3)):
        lazy = l2.normalize(da.from_array(x, chunks))
        got = client.compute(lazy, sync=True)
        assert got.tobytes() == lazy.compute(scheduler="sync").tobytes()
        with pytest.raises(l2.ZeroVectorError, match="of block"):
            client.compute(l2.normalize(da.zeros((9, 10), chunks=chunks), zero="raise"), sync=True)


def test_a_store_larger_than_memory_and_a_killed_worker(tmp_path):
    """The example, by two processes."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples/cluster.py", tmp_path],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "2 workers of 384 MiB, a store of 416 MiB",
        "2 processes began, 1 of them was killed",
        "files as by one machine: True",
        "bits as in memory: True",
    ]
