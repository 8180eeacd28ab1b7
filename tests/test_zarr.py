"""Zarr stores: one array changes, all else is as it was; read back by TensorStore, not by zarr."""

import ctypes
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi import _formats, _replacing
from l2multi.cli import main
from l2multi.files import check_file, normalize_file
from l2multi.folders import normalize_folder
from l2multi.formats import zarr as zarr_format
from tests.streamed import draw, small_windows

zarr = pytest.importorskip("zarr")
tensorstore = pytest.importorskip("tensorstore")

pytestmark = pytest.mark.usefixtures("small_windows")
__all__ = ["small_windows"]  # a fixture

SHAPE = (23, 17)
# What is read as one: rows, parts of rows, all, and shards of chunks.
CUTS = {
    "rows": {"chunks": (4, 17)},
    "across": {"chunks": (5, 3)},
    "columns": {"chunks": (23, 1)},
    "larger": {"chunks": (32, 32)},
    "shards": {"chunks": (2, 3), "shards": (4, 9)},
}


def make(path, x, version=3, **options):
    """An array of its own, with attributes."""
    options = {"attributes": {"model": "ß"}, "chunks": (4, 17), **options}
    array = zarr.create_array(path, shape=x.shape, dtype=x.dtype, zarr_format=version, **options)
    array[...] = x
    return array


def read(path):
    """An array by TensorStore, which shares no code with zarr-python."""
    driver = "zarr" if (Path(path) / ".zarray").exists() else "zarr3"
    kept = {"driver": "file", "path": os.fspath(Path(path).resolve())}
    return tensorstore.open({"driver": driver, "kvstore": kept}).result().read().result()


def files(folder):
    """The bytes of all files, by their paths."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def native(x):
    return np.asarray(x).astype(np.asarray(x).dtype.newbyteorder("="))


def same_bits(got, want):
    assert got.dtype.newbyteorder("=") == want.dtype
    assert native(got).tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("version", "cuts"),
    [*((3, cuts) for cuts in CUTS), *((2, cuts) for cuts in CUTS if cuts != "shards")],
)
@pytest.mark.parametrize("axis", [-1, 0, None, ()])
def test_chunks(version, cuts, axis):
    """However an array is cut, across its vectors too, these have the bits of one in memory."""
    x = draw(SHAPE, np.float32)
    make("in.zarr", x, version, **CUTS[cuts])
    report = normalize_file("in.zarr", "out.zarr", axis)
    want, norms = l2.normalize(x, axis, return_norm=True)
    same_bits(read("out.zarr"), want)
    assert (report.vectors, report.zero) == (norms.size, np.sum(norms == 0))
    assert (report.shape, report.largest) == (SHAPE, norms.max())
    before, after = files("in.zarr"), files("out.zarr")
    for name in before:
        if name.rpartition("/")[2].startswith((".z", "zarr")):
            assert before[name] == after[name]
    assert sorted(os.listdir()) == ["in.zarr", "out.zarr"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", "i1", "u2", "i8", "?", ">f4"])
def test_dtypes(version, dtype):
    """Floating ones stay, with the description; integers become float64."""
    options = {}
    if dtype == ">f4" and version == 3:
        options, dtype = {"serializer": zarr.codecs.BytesCodec(endian="big")}, "f4"
    x = draw(SHAPE, np.dtype(dtype))
    make("in.zarr", x, version, fill_value=1, **options)
    normalize_file("in.zarr", "out.zarr")
    want = l2.normalize(x)
    got = read("out.zarr")
    same_bits(got, want)
    same_bits(zarr.open_array("out.zarr", mode="r")[:], want)
    before, after = (
        {n: b for n, b in files(f).items() if "z" in n} for f in ("in.zarr", "out.zarr")
    )
    assert (before == after) == (x.dtype.kind in "fc")


@pytest.mark.parametrize("version", [2, 3])
def test_a_dtype_that_is_asked_for(version):
    """Codecs that are told the width of elements are told the new one."""
    x = draw(SHAPE, np.float32)
    for options in ({}, {"compressors": None}, {"compressors": zarr.codecs.BloscCodec(typesize=4)},
                    CUTS["shards"]):  # fmt: skip
        if (
            version == 2
            and options.keys() & {"shards", "compressors"}
            and options != {"compressors": None}
        ):
            continue
        make("in.zarr", x, version, **options)
        normalize_file("in.zarr", "out.zarr", dtype="float64")
        same_bits(read("out.zarr"), l2.normalize(x, dtype="float64"))
        for folder in ("in.zarr", "out.zarr"):
            shutil.rmtree(folder)


def groups(version, consolidated=True):
    """Arrays in groups, one of strings; and files that no one has asked for."""
    root = zarr.create_group("in.zarr", zarr_format=version, attributes={"model": "x"})
    below = root.create_group("a/b", attributes={"of": 1})
    x = draw(SHAPE, np.float32)
    kept = {"chunks": (5, 3), "attributes": {"units": "m"}}
    below.create_array("emb", data=x, **kept)
    below.create_array("emb2", data=x, **kept)
    root.create_array("ids", data=np.arange(23), chunks=(10,))
    Path("in.zarr/a/b/emb/README").write_text("a file of its own")
    if consolidated:
        zarr.consolidate_metadata("in.zarr", zarr_format=version)
    return x


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_groups(version, dtype):
    """Other arrays, groups, attributes and files are carried through byte for byte, and what a
    group knows of its arrays is right."""
    x = groups(version)
    normalize_file("in.zarr", "out.zarr", tensor="a/b/emb", dtype=dtype)
    want = l2.normalize(x, dtype=dtype)
    same_bits(read("out.zarr/a/b/emb"), want)
    before, after = files("in.zarr"), files("out.zarr")
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    roots = {2: ".zmetadata", 3: "zarr.json"}
    allowed = (
        set()
        if dtype is None
        else {roots[version], f"a/b/emb/{'.zarray' if version == 2 else 'zarr.json'}"}
    )
    assert {name for name in changed if not name.startswith("a/b/emb/") or "z" in name} == allowed
    root = zarr.open_consolidated("out.zarr", mode="r")
    assert root["a/b/emb"].dtype == want.dtype
    assert root["a/b/emb"].attrs["units"] == "m"
    same_bits(root["a/b/emb"][:], want)
    same_bits(root["a/b/emb2"][:], x)


def test_dims():
    """The first dimensions alone: Matryoshka."""
    x = draw(SHAPE, np.float32)
    for cuts in CUTS.values():
        make("in.zarr", x, **cuts)
        normalize_file("in.zarr", "out.zarr", dims=7)
        same_bits(read("out.zarr"), l2.normalize(x[:, :7]))
        for folder in ("in.zarr", "out.zarr"):
            shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("dtype", ["V", "u"])
def test_dtype_in(name, dtype):
    """zarr-python#711: bfloat16 is stored as nameless bytes; so are those of TensorStore (`dims`
    across the vectors)."""
    x = draw((10, 250), getattr(ml_dtypes, name))
    held = x.view(f"{dtype}{x.itemsize}")
    make("in.zarr", held, 2, chunks=(3, 100), fill_value=None)
    normalize_file("in.zarr", "out.zarr", dtype_in=name, dtype="float32")
    same_bits(read("out.zarr"), l2.normalize(x, dtype="float32"))
    with pytest.raises(TypeError, match=f"dtype: {name} has no name in a .zarr file"):
        normalize_file("in.zarr", "other.zarr", dtype_in=name)
    if dtype == "V":
        with pytest.raises(TypeError, match="say what its bytes are, such as dtype_in="):
            normalize_file("in.zarr", "other.zarr")
    assert sorted(os.listdir()) == ["in.zarr", "out.zarr"]


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("fill", [None, 1.5, np.nan])
def test_what_tensorstore_alone_can_name(driver, name, fill):
    """Its arrays of bfloat16 and float8 come back as such, however they are cut; what was never
    written is the fill value."""
    kind = np.dtype(getattr(ml_dtypes, name))
    x = draw((10, 70), kind)
    own = {"chunks": [3, 32]} if driver == "zarr" else {}
    own = {"metadata": own, "kvstore": {"driver": "file", "path": f"{Path.cwd()}/in.zarr"}}
    layout = tensorstore.ChunkLayout(chunk_shape=[3, 32])
    made = tensorstore.open(
        {"driver": driver, **own}, create=True, dtype=tensorstore.dtype(name), shape=x.shape,
        chunk_layout=layout, fill_value=None if fill is None else kind.type(fill),
    ).result()  # fmt: skip
    made[:6].write(x[:6]).result()
    x[6:] = fill or 0
    normalize_file("in.zarr", "out.zarr")
    same_bits(read("out.zarr"), l2.normalize(x))
    own = {name: held for name, held in files("in.zarr").items() if "z" in name}
    assert own.items() <= files("out.zarr").items()
    normalize_file("in.zarr", "wide.zarr", dtype="float32", dims=33)
    same_bits(read("wide.zarr"), l2.normalize(x[:, :33], dtype="float32"))
    refused(TypeError, "dtype_in: expected one that fits", target="no.zarr", dtype_in="float8_e3m4")


def test_zeros_of_complex_numbers_keep_their_signs():
    """zarr leaves out a chunk of them, for they equal the fill value."""
    x = np.zeros(SHAPE, "c8")
    x[:8] = complex(-0.0, -0.0)
    x[9] = 3
    make("in.zarr", x, config={"write_empty_chunks": True})
    normalize_file("in.zarr", "out.zarr")
    same_bits(read("out.zarr"), l2.normalize(x))


def test_missing_chunks_stay_missing():
    """A store of mostly nothing does not grow."""
    x = draw((200, 64), np.float32)
    x[8:] = 0
    make("in.zarr", x, chunks=(4, 16))
    normalize_file("in.zarr", "out.zarr")
    assert files("in.zarr").keys() == files("out.zarr").keys()
    same_bits(read("out.zarr"), l2.normalize(x))


def test_filters_that_change_numbers():
    """Refused: the result would not be what was computed."""
    numcodecs = pytest.importorskip("numcodecs")
    x = draw(SHAPE, np.float32)
    for lossy in (numcodecs.Quantize(2, "f4"), numcodecs.Delta("f4"), numcodecs.BitRound(4)):
        make("in.zarr", x, 2, filters=[lossy])
        with pytest.raises(
            ValueError, match="source: the array's filters do not keep unit vectors"
        ):
            normalize_file("in.zarr", "out.zarr")
        shutil.rmtree("in.zarr")
    make("in.zarr", x, 2, filters=[numcodecs.Shuffle(4)])
    normalize_file("in.zarr", "out.zarr")
    same_bits(zarr.open_array("out.zarr", mode="r")[:], l2.normalize(x))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (), (5,), (2, 3, 4)])
def test_shapes(shape):
    x = np.ones(shape, np.float32)
    make("in.zarr", x, chunks=tuple(max(1, n) for n in shape))
    axis = None if shape == () else -1
    normalize_file("in.zarr", "out.zarr", axis)
    same_bits(
        np.asarray(zarr.open_array("out.zarr", mode="r")[...]), np.asarray(l2.normalize(x, axis))
    )


def refused(error, match, source="in.zarr", target="out.zarr", **keywords):
    before = sorted(os.listdir())
    with pytest.raises(error, match=match) as caught:
        normalize_file(source, target, **keywords)
    assert sorted(os.listdir()) == before
    assert "\n" not in str(caught.value)


def test_refusals():
    x = groups(3, consolidated=False)
    refused(
        ValueError, r"tensor: expected one of those in 'in.zarr' \('a/b/emb', 'a/b/emb2', 'ids'\)"
    )
    refused(ValueError, "tensor: expected one of those", tensor="a/b")
    refused(ValueError, "column: expected none", column="x")
    Path("file.zarr").write_bytes(b"PK")
    refused(ValueError, "expected a .zarr folder, got 'file.zarr'", "file.zarr")
    refused(ValueError, "expected another folder", target="in.zarr", tensor="ids")
    Path("none.zarr").mkdir()
    refused(ValueError, "expected a .zarr folder with an array", "none.zarr")
    refused(FileNotFoundError, "source: ", "missing.zarr")
    make("text.zarr", np.array([["ab"]]), 2, chunks=(1, 1))
    refused(TypeError, "source: dtype <U2 of array '' is not supported", "text.zarr")
    make("packed.zarr", x.astype("i2"), attributes={"scale_factor": 0.1})
    refused(ValueError, "stand for others, by its attribute 'scale_factor'", "packed.zarr")
    refused(l2.ZeroVectorError, "zero norm in 1 of 23", tensor="a/b/emb", zero="raise")


def test_nothing_is_unpickled():
    """A filter of pickles runs what it holds."""
    make("in.zarr", draw(SHAPE, np.float32), 2)
    where = Path("in.zarr/.zarray")
    meta = json.loads(where.read_text())
    where.write_text(json.dumps({**meta, "filters": [{"id": "pickle", "protocol": 5}]}))
    refused(ValueError, "its chunks are pickled, and nothing is ever unpickled")


def grid(*shape):
    """Chunks, in the words of Zarr 3."""
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


@pytest.mark.parametrize("version", [2, 3])
def test_damage(version):
    """One line, and nothing written: a cut or scrambled chunk, and descriptions that lie."""
    for compressors in (None, "auto"):
        array = make("in.zarr", draw(SHAPE, np.float32), version, compressors=compressors)
        own = Path("in.zarr", ".zarray" if version == 2 else "zarr.json")
        chunks = [path for path in Path("in.zarr").rglob("*") if path.is_file() and path != own
                  and "z" not in path.name]  # fmt: skip
        assert array.nchunks == len(chunks)
        whole = chunks[0].read_bytes()
        for bad in (
            whole[:-1],
            whole[: len(whole) // 2],
            b"",
            whole + b"x" * (compressors is None),
        ):
            if bad != whole:
                chunks[0].write_bytes(bad)
                refused(ValueError, "source: a chunk cannot be read")
        chunks[0].write_bytes(whole)
        meta = json.loads(own.read_text())
        for lie in (
            {"shape": [23, -1]}, {"shape": "x"}, {"shape": None}, {"codecs": 3, "compressor": 3},
            {"data_type": "float7", "dtype": "<f7"}, {"zarr_format": 9}, {"fill_value": "?!"},
            {"chunk_grid": {}, "chunks": [0, 0]}, {"shape": [23, 10**15]},
            {"shape": [10**15, 10**15]},
            {"chunk_grid": grid(2**40, 17), "chunks": [2**40, 17]},
        ):  # fmt: skip
            own.write_text(json.dumps({**meta, **{k: v for k, v in lie.items() if k in meta}}))
            refused((ValueError, TypeError), "source: ")
        own.write_bytes(own.read_bytes()[:-9])
        refused(ValueError, "source: ")
        shutil.rmtree("in.zarr")


def test_the_command(capsys):
    groups(3, consolidated=False)
    assert main(["normalize", "in.zarr", "out.zarr", "--tensor", "a/b/emb"]) == 0
    assert "vectors        23" in capsys.readouterr().out
    Path("photos.zarr").mkdir()
    Path("photos.zarr", "a.jpg").write_bytes(b"mine")
    assert main(["normalize", "in.zarr", "photos.zarr", "--tensor", "a/b/emb"]) == 1
    assert "OUT: expected a .zarr folder or none, got 'photos.zarr'" in capsys.readouterr().err
    assert files("photos.zarr") == {"a.jpg": b"mine"}


EXCHANGES = pytest.mark.skipif(sys.platform != "linux", reason="two folders cannot change places")


@EXCHANGES
def test_a_store_is_replaced():
    x = draw(SHAPE, "f4")
    make("in.zarr", x)
    make("out.zarr", x[:3, :4], 2)
    os.mkdir("empty.zarr")
    os.symlink("out.zarr", "link.zarr")
    os.chmod("out.zarr", 0o750)
    for target in ("out.zarr", "empty.zarr", "out.zarr", "link.zarr"):
        normalize_file("in.zarr", target)
        same_bits(read(target), l2.normalize(x))
        assert set(files(target)) == set(files("in.zarr"))
        normalize_file("in.zarr", target, dtype="f8")
        assert read(target).dtype == np.float64
    assert sorted(os.listdir()) == ["empty.zarr", "in.zarr", "link.zarr", "out.zarr"]
    assert os.readlink("link.zarr") == "out.zarr"
    assert os.stat("out.zarr").st_mode & 0o777 == 0o750
    # What is in it keeps its modes by name; what is new there has those of new files.
    own = [Path("out.zarr", name) for name in ("zarr.json", "c", "c/0/0")]
    for path, mode in zip(own, (0o640, 0o710, 0o604), strict=True):
        path.chmod(mode)
    shutil.rmtree("out.zarr/c/1")
    assert main(["normalize", "in.zarr", "out.zarr", "--quiet"]) == 0
    assert [path.stat().st_mode & 0o777 for path in own] == [0o640, 0o710, 0o604]
    fresh = os.stat("in.zarr/c/1/0").st_mode
    assert os.stat("out.zarr/c/1/0").st_mode == fresh
    before = files("out.zarr")
    for keywords in ({"nonfinite": "raise"}, {"zero": "raise"}):
        x[4] = np.nan
        make("in.zarr", x, overwrite=True)
        with pytest.raises(ValueError, match="source: "):
            normalize_file("in.zarr", "out.zarr", **keywords)
    assert files("out.zarr") == before
    assert sorted(os.listdir()) == ["empty.zarr", "in.zarr", "link.zarr", "out.zarr"]


@pytest.mark.parametrize("why", [errno.ENOSYS, errno.EINVAL, errno.EXDEV])
def test_a_store_that_cannot_change_places_is_kept(why, monkeypatch):
    """It is told before anything is computed."""
    make("in.zarr", draw(SHAPE, "f4"))
    shutil.copytree("in.zarr", "out.zarr")

    class System:
        """One that refuses."""

        def renameat2(self, *arguments):
            ctypes.set_errno(why)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **keywords: System())
    with pytest.raises(FileExistsError, match=r"target: .*remove it first"):
        normalize_file("in.zarr", "out.zarr", progress=pytest.fail)
    assert files("out.zarr") == files("in.zarr")
    assert sorted(os.listdir()) == ["in.zarr", "out.zarr"]


@EXCHANGES
def test_a_folder_of_stores_goes_on():
    """What is done is skipped, and what was done otherwise is done again, in a second run."""
    os.mkdir("parts")
    for i in range(3):
        make(f"parts/{i}.zarr", draw(SHAPE, "f4") + i)

    def stop(part):
        if part.source.endswith("1.zarr"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normalize_folder("parts", "unit", done=stop)
    Path("unit/.l2multi-0123456789abcdef.tmp").mkdir()  # as kill -9 leaves
    Path("unit/1.zarr/c/0/0").write_bytes(b"damaged")
    done = normalize_folder("parts", "unit")
    assert [part.report is None for part in done] == [True, False, False]
    for i in range(3):
        same_bits(read(f"unit/{i}.zarr"), l2.normalize(draw(SHAPE, "f4") + i))
    assert sorted(os.listdir("unit")) == [".l2multi.json", "0.zarr", "1.zarr", "2.zarr"]


def test_without_zarr(monkeypatch):
    make("in.zarr", draw(SHAPE, np.float32))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"a .zarr folder needs zarr .*try: pip install"):
        normalize_file("in.zarr", "out.zarr")


def test_an_interrupt_leaves_nothing(monkeypatch):
    make("in.zarr", draw(SHAPE, np.float32))

    def progress(done, total):
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normalize_file("in.zarr", "out.zarr", progress=progress)
    assert os.listdir() == ["in.zarr"]
    left = Path(".l2multi-0123456789abcdef.tmp")  # as kill -9 does
    shutil.copytree("in.zarr", left)
    assert _replacing._NAME.fullmatch(left.name)
    normalize_file("in.zarr", "out.zarr")
    assert sorted(os.listdir()) == ["in.zarr", "out.zarr"]


def test_results_stay_out_of_the_source():
    make("a.zarr", draw(SHAPE, "f4"))
    before = files("a.zarr")
    shutil.copytree("a.zarr", "g.zarr/a.zarr")
    Path("g.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    for keywords in (
        {"target": "a.zarr/b.zarr"},
        {"target": "b.zarr", "norms": "a.zarr/n.npy"},
        {"source": "g.zarr/a.zarr", "target": "g.zarr"},
    ):
        with pytest.raises(ValueError, match="expected another f"):
            normalize_file(**{"source": "a.zarr", **keywords})
    shutil.rmtree("g.zarr")
    with pytest.raises(ValueError, match="target: expected a folder of files"):
        normalize_folder(["a.zarr"], "a.zarr")
    assert files("a.zarr") == before
    normalize_file("a.zarr", "b.zarr/")
    assert sorted(os.listdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize("version", [2, 3])
def test_next_to_nothing_is_stored(version, monkeypatch):
    """Where a large claim stands for nothing, nobody waits for its zeros; here a small one."""
    array = zarr.create_array(
        "in.zarr", shape=(10**6, 8), chunks=(10**5, 8), dtype="f4", zarr_format=version,
        compressors=None,
    )  # fmt: skip
    monkeypatch.setattr(zarr_format, "LARGE", 2**24)
    assert check_file("in.zarr").zero == 10**6
    monkeypatch.setattr(zarr_format, "DENSEST", 10)
    told = "^source: expected vectors that are stored, got 'in.zarr', which claims 32,000,000 bytes"
    refused(ValueError, told)
    array[:200_000] = 1
    assert check_file("in.zarr").zero == 800_000


def test_links_are_refused():
    zarr.create_group("g.zarr").create_array("x", shape=(3, 2), dtype="f4")[...] = 1
    make("other.zarr", draw(SHAPE, "f4"))
    os.symlink(os.path.abspath("other.zarr"), "g.zarr/ids")
    with pytest.raises(ValueError, match=r"source: .* in which 'ids' is a link"):
        normalize_file("g.zarr", "b.zarr", tensor="x")
    assert not os.path.exists("b.zarr")


def test_windows_of_chunks_across():
    """A window has the chunks that it touches, and no more than its bytes ask for."""
    zarr.create_array("a.zarr", shape=(50, 4000), dtype="f4", chunks=(50, 10))[...] = 1
    opened = zarr_format.open("a.zarr", _formats.Selection())
    assert max(block.values.nbytes for block in opened.blocks((0,))) <= 50 * 10 * 4


@pytest.mark.parametrize("fill", [0.0, 0.5, np.nan])
@pytest.mark.parametrize("shards", [None, (6, 8)])
def test_the_same_chunks_are_stored(fill, shards):
    """Those that zarr-python stores by itself, whichever is known from its first number alone."""
    x = np.full((12, 8), fill, np.float32)
    x[2, 1] = x[4] = 0.5  # not the first number of a chunk; the first of another
    options = {"chunks": (3, 8), "shards": shards, "fill_value": fill}
    make("in.zarr", x, **options)
    normalize_file("in.zarr", "out.zarr")
    make("own.zarr", l2.normalize(x), **options)
    assert files("out.zarr") == files("own.zarr")
