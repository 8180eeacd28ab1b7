"""HDF5: one dataset changes; groups, attributes, filters, links and scales are as they were."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi.files import normalize_file
from tests.streamed import BEFORE, bounded, draw, numpy_backend, refused, small_windows

h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.usefixtures("small_windows", "numpy_backend")
__all__ = ["numpy_backend", "small_windows"]  # fixtures

FILES = ("in.h5", "out.h5")
COMPLETE = "source: expected a complete HDF5 file, got 'in.h5': "
LAYOUTS = {
    "contiguous": {},
    "chunks": {"chunks": (7, 5)},
    "filters": {"chunks": (7, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (8, 33), "compression": "lzf", "fillvalue": 7},
    "growing": {"chunks": (40, 33), "maxshape": (None, None)},
}


def made(x, **keywords):
    """A file of several objects, of which ``g/train`` has to do with others."""
    with h5py.File("in.h5", "w") as file:
        file.attrs["distance"] = "angular"
        group = file.create_group("g")
        data = group.create_dataset("train", data=x, **keywords)
        data.attrs["text"], data.attrs["number"] = "of any length", np.float32(3)
        data.attrs["texts"] = np.array(["a", "bc"], h5py.string_dtype())
        data.attrs["empty"], data.attrs["ref"] = h5py.Empty("f4"), group.ref
        file["test"], file["ids"] = np.ones((5, 3)), np.arange(40)
        file["soft"] = h5py.SoftLink("/g/train")
        file["scale"] = np.arange(40.0)
        file["scale"].make_scale("rows")
        data.dims[0].attach_scale(file["scale"])
        data.dims[1].label = "elements"


def described(path) -> dict:
    """All that h5py tells, but for the numbers of ``g/train``."""
    found = {}
    with h5py.File(path) as file:

        def look(name, one):
            told = {"attrs": {k: str(one.attrs[k]) for k in one.attrs if "_LIST" not in k}}
            if isinstance(one, h5py.Dataset):
                told |= {k: getattr(one, k) for k in ("compression", "shuffle", "fletcher32")}
                if name != "g/train":
                    told |= {"dtype": one.dtype, "bytes": one[()].tobytes(), "chunks": one.chunks}
            found[name] = told

        look("/", file)
        file.visititems(look)
        train = file["g/train"]
        assert file["soft"] == train
        assert train.dims[0][0] == file["scale"]
        assert file[file["scale"].attrs["REFERENCE_LIST"][0][0]] == train
        assert train.dims[1].label == "elements"
        assert file[train.attrs["ref"]] == file["g"]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("axis", "dtype", "dims"),
    [(-1, None, None), (0, None, None), (None, "float64", None), (-1, "float16", 3), (-1, None, 3)],
)
def test_all_else_is_carried_through(layout, order, axis, dtype, dims):
    x = draw((40, 33), np.float32)
    made(x.astype(order + "f4"), **LAYOUTS[layout])
    normalize_file(*FILES, axis, tensor="/g/train", dtype=dtype, dims=dims)
    with h5py.File("in.h5") as old, h5py.File("out.h5") as new:
        one, other = old["g/train"], new["g/train"]
        unit = l2.normalize(x[:, :dims], axis, dtype=dtype)
        np.testing.assert_array_equal(other[()], unit)
        assert other.dtype == unit.dtype.newbyteorder(order)
        assert other.fillvalue == one.fillvalue
        if dims is None:
            assert (other.chunks, other.maxshape) == (one.chunks, one.maxshape)
    assert described("out.h5") == described("in.h5")
    if shutil.which("h5dump") and dtype is None and dims is None:
        dumped = [
            subprocess.run(["h5dump", "-pA", path], capture_output=True, text=True, check=True)
            .stdout.split("\n", 1)[1] for path in FILES
        ]  # fmt: skip
        assert dumped[0] == dumped[1] or layout == "filters"  # whose sizes are told


def test_the_only_one():
    """Of floating numbers; in a group too; of the kind of ann-benchmarks by name."""
    x = draw((40, 33), np.float32)
    with h5py.File("in.h5", "w") as file:
        file["a/b/emb"], file["ids"] = x, np.arange(40)
    assert normalize_file(*FILES).vectors == 40
    with h5py.File("in.h5", "a") as file:
        file["test"], file["neighbors"] = x[:5], np.zeros((5, 10), int)
    told = r"tensor: expected one of those in 'in.h5' \('a/b/emb', 'test'\), got "
    refused(ValueError, told + "none", *FILES)
    for name in ("train", "a/b", "/"):
        refused(ValueError, told + f"'{name}'", *FILES, tensor=name)
    normalize_file("in.h5", "one.h5", tensor="a/b/emb")
    normalize_file("one.h5", "out.h5", tensor="test")
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["a/b/emb"], l2.normalize(x))
        np.testing.assert_array_equal(file["test"], l2.normalize(x[:5]))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((0, 3), (4, 3)), ((0, 3), None), ((3, 0), None), ((5,), (2,)), ((), None)],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "complex64", "longdouble"])
def test_shapes_and_dtypes(shape, chunks, dtype):
    x, axis = np.ones(shape, dtype), -1 if shape else None
    with h5py.File("in.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=chunks, maxshape=chunks and (None,) * len(shape))
    normalize_file(*FILES, axis, tensor="x")
    with h5py.File("out.h5") as file:
        unit = l2.normalize(x, axis)
        assert (file["x"].dtype, file["x"].chunks) == (unit.dtype, chunks)
        np.testing.assert_array_equal(file["x"][()], unit)


def test_dtypes_without_a_name():
    x = draw((40, 33), ml_dtypes.bfloat16)
    with h5py.File("in.h5", "w") as file:
        file["x"] = x
    refused(TypeError, r"source: dtype \|V2 of dataset 'x' has no meaning of its own", *FILES)
    refused(TypeError, "dtype: bfloat16 has no name in a .h5", *FILES, dtype_in="bfloat16")
    refused(TypeError, "dtype_in: expected one that fits", *FILES, dtype_in="float8_e5m2")
    normalize_file(*FILES, dtype_in="bfloat16", dtype="float32")
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["x"], l2.normalize(x, dtype="float32"))


def test_policies():
    x = draw((40, 33), np.float32)
    x[30] = np.inf
    with h5py.File("in.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(3, 33), compression="gzip")
    refused(l2.ZeroVectorError, "source: zero norm .* at position 0", *FILES, zero="raise")
    refused(l2.NonFiniteError, "source: inf .* at position 30", *FILES, nonfinite="raise")
    refused(ValueError, "zero: drop is for vectors", *FILES, zero="drop")
    for failure in (KeyboardInterrupt, MemoryError):

        def fail(done, total, failure=failure):
            if done:
                raise failure("in the midst")

        refused(failure, "in the midst", *FILES, progress=fail)


def lies():
    """What is in a file, what is asked for, and what is told of it."""
    x = np.ones((4, 5), "f4")

    def virtual(file):
        layout = h5py.VirtualLayout((4, 5), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4, 5))
        file.create_virtual_dataset("x", layout)

    def narrow(file):
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(23, 15, 8, 0, 15)
        kind.set_size(3)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4, 5)))

    def renamed(file):
        file["x"] = x
        file["y"] = file["x"]

    def referred(file):
        file["x"] = x
        file.create_dataset("refs", data=np.array([file["x"].ref], h5py.ref_dtype))

    def scale(file):
        file["x"] = x
        file["x"].make_scale()

    def add(**keywords):
        return lambda file: file.create_dataset("x", **keywords)

    elsewhere = "the numbers of dataset 'x' are in another file"
    endless = {"shape": (10**9, 300), "dtype": "f4"}
    keeps = "so that it can only keep its dtype, float32, and its dimensions"
    return {
        "scale-offset": (add(data=x, scaleoffset=3), {}, "compressed by scale-offset, which does"),
        "never written": (add(**endless), {}, "claims 1200000000000 bytes, of which 0 were"),
        "no chunk": (add(**endless, chunks=(99, 300)), {}, "claims 1200000000000 bytes"),
        "external": (add(shape=(4, 5), dtype="f4", external="x.raw"), {}, elsewhere),
        "virtual": (virtual, {}, elsewhere),
        "link": (lambda f: f.__setitem__("x", h5py.ExternalLink("other.h5", "x")), {}, elsewhere),
        "narrow": (narrow, {}, "has numbers of a format that NumPy has not"),
        "empty": (lambda f: f.__setitem__("x", h5py.Empty("f4")), {}, "'x' is empty, and has no"),
        "two names": (renamed, {"dtype": "f8"}, "'x' has several names, " + keeps),
        "reference": (referred, {"dtype": "f8"}, "'x' is referred to by 'refs', " + keeps),
        "dims": (referred, {"dims": 2}, "'x' is referred to by 'refs', " + keeps),
        "scale": (scale, {"dtype": "f8"}, "'x' is a dimension scale, " + keeps),
    }


@pytest.mark.parametrize("name", lies())
def test_refusals(name):
    write, keywords, told = lies()[name]
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones((4, 5), "f4")
    with h5py.File("in.h5", "w") as file:
        write(file)
    refused(ValueError, COMPLETE + ".*" + told, *FILES, tensor="x", **keywords)
    if keywords:
        normalize_file(*FILES, tensor="x")


def test_dtypes_that_are_none():
    with h5py.File("in.h5", "w") as file:
        file["x"], file["y"] = ["a", "b"], np.zeros(3, [("a", "f4")])
    for name in "xy":
        refused(TypeError, f"source: dtype .* of dataset '{name}' is not supp", *FILES, tensor=name)


def test_damage(monkeypatch):
    """Cut anywhere it is refused; a byte of compressed numbers that differs is told."""
    x = draw((400, 33), np.float32)
    with h5py.File("in.h5", "w") as file:
        data = file.create_dataset(
            "x", data=x, chunks=(50, 33), compression="gzip", fletcher32=True
        )
        chunk = data.id.get_chunk_info(3)
    whole = Path("in.h5").read_bytes()
    for size in random.Random(0).sample(range(len(whole)), 30):
        Path("in.h5").write_bytes(whole[:size])
        refused(ValueError, COMPLETE, *FILES)
    damaged = bytearray(whole)
    damaged[chunk.byte_offset + 100] ^= 1
    Path("in.h5").write_bytes(damaged)
    refused(ValueError, COMPLETE, *FILES)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(ImportError, r"source: HDF5 needs h5py .* pip install 'l2multi\[hdf5\]'", *FILES)


FULL = """
import resource, sys
from l2multi.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(["normalize", "in.h5", "out.h5", *sys.argv[2:]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits")
@pytest.mark.parametrize("arguments", [(), ("--dtype", "float64")])
def test_full_disk(arguments):
    """It is told before HDF5 would write, which ends the process if it cannot."""
    x = np.round(draw((4000, 100), np.float32) / 100)
    with h5py.File("in.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(100, 100), compression="gzip")
    Path("out.h5").write_bytes(BEFORE)
    limit = Path("in.h5").stat().st_size + 50_000
    done = subprocess.run([sys.executable, "-c", FULL, str(limit), *arguments],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("l2multi: error: OUT: no room for its ")
    assert Path("out.h5").read_bytes() == BEFORE
    assert sorted(p.name for p in Path().iterdir()) == ["in.h5", "out.h5"]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
@pytest.mark.parametrize("layout", [{}, {"chunks": (1000, 250), "compression": "gzip"}])
def test_memory_is_bounded(layout):
    for name, n in (("small.h5", 1000), ("large.h5", 100_000)):
        with h5py.File(name, "w") as file:
            data = file.create_dataset("x", (n, 250), "f4", **layout)
            for lo in range(0, n, 1000):
                data[lo : lo + 1000] = 1
    bounded("small.h5", "large.h5", "out.h5")
