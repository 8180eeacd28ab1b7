"""Folders of files: which parts are done, what is told of others; folders of other systems too."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import l2multi as l2
from l2multi import _remote, files
from l2multi.cli import main
from l2multi.folders import RECORD, check_folder, normalize_folder
from tests.streamed import draw, numpy_backend

fsspec = pytest.importorskip("fsspec")

pytestmark = pytest.mark.usefixtures("numpy_backend", "in_tmp_path")
__all__ = ["numpy_backend"]  # a fixture


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parts(*names, folder="parts"):
    """A folder of arrays, each another."""
    os.makedirs(folder, exist_ok=True)
    arrays = {name: draw((5, 4), np.float32) + i for i, name in enumerate(names)}
    for name, x in arrays.items():
        np.save(f"{folder}/{name}", x)
    return arrays


@pytest.fixture(params=["memory", "file", "to memory", "from memory"])
def places(request, tmp_path):
    """A folder of parts and one for results, as they are named, and the file system of each."""
    kinds = {"to memory": ("file", "memory"), "from memory": ("memory", "")}
    found = []
    for kind, name in zip(kinds.get(request.param, (request.param,) * 2), "ab", strict=True):
        if kind == "memory":
            system = fsspec.filesystem("memory")
            if system.exists("/shelf"):
                system.rm("/shelf", recursive=True)
            found.append((f"memory://shelf/{name}", system, f"/shelf/{name}"))
        else:
            url = f"file://{tmp_path}/{name}" if kind else name
            found.append((url, fsspec.filesystem("file"), f"{tmp_path}/{name}"))
    return found


def load(system, path):
    with system.open(path, "rb") as file:
        return np.load(file)


def save(system, path, x):
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    with system.open(path, "wb") as file:
        np.save(file, x)


@pytest.mark.parametrize("end", ["", "/", "/*.npy"])
def test_folders_of_other_systems(places, end, capsys):
    """By the same words as those of this machine, and what is done is known by its content."""
    (source, one, inside), (target, other, outside) = places
    arrays = {f"{i}.npy": draw((5, 4), np.float32) + i for i in range(3)}
    for name, x in arrays.items():
        save(one, f"{inside}/{name}", x)
    one.pipe(f"{inside}/README", b"not a part")
    assert main(["normalize", source + end, target, "--return-norms", f"{target}-norms"]) == 0
    out = capsys.readouterr().out
    assert f"{target}/2.npy: 5 vectors\n" in out
    assert "files          3 written, 0 done before\n" in out
    assert sorted(os.path.basename(path) for path in other.ls(outside, detail=False)) == [
        RECORD, *sorted(arrays),
    ]  # fmt: skip
    for name, x in arrays.items():
        np.testing.assert_array_equal(load(other, f"{outside}/{name}"), l2.normalize(x))
        np.testing.assert_array_equal(load(other, f"{outside}-norms/{name}"), l2.norm(x))
    save(one, f"{inside}/1.npy", arrays["1.npy"][::-1])
    other.pipe(f"{outside}/2.npy", b"damaged")
    done = normalize_folder(source + end, target, norms=f"{target}-norms")
    assert [part.report is None for part in done] == [True, False, False]
    assert done[1].report.source == done[1].source
    assert done[1].source.startswith(source)
    for name in ("1.npy", "2.npy"):
        x = arrays[name][::-1] if name == "1.npy" else arrays[name]
        np.testing.assert_array_equal(load(other, f"{outside}/{name}"), l2.normalize(x))
    one.rm(f"{inside}/2.npy")
    assert main(["normalize", source + end, target]) == 0
    out = capsys.readouterr().out
    assert "files          0 written, 2 done before, 1 stale\n" in out
    save(one, f"{inside}/9.npy", np.ones((2, 3), np.float32))
    assert main(["normalize", source + end, target]) == 1
    err = capsys.readouterr().err
    assert f"IN: expected vectors of one length, got '{source}/9.npy', whose vectors have 3" in err
    one.pipe(f"{inside}/9.npy", b"no array")
    assert main(["normalize", source + end, target]) == 1
    assert f"IN: expected a .npy file, got '{source}/9.npy', which" in capsys.readouterr().err
    assert main(["normalize", source, source]) == 1
    assert "OUT: expected another folder than that of the files" in capsys.readouterr().err
    assert main(["normalize", f"{source}/none*", target]) == 1
    assert "which matches none" in capsys.readouterr().err


def test_dry_run_elsewhere():
    system = fsspec.filesystem("memory")
    parts("a.npy")
    found = normalize_folder("parts", "memory://dry/unit", dry_run=True)
    assert found[0].report.zero == 1
    assert not system.exists("/dry")


def test_one_file_elsewhere_is_no_folder(tmp_path):
    parts("a.npy", "b.npy")
    assert main(["normalize", f"file://{tmp_path}/parts/a.npy", "out.npy", "--quiet"]) == 0
    assert files.check_file("out.npy").unit == 4
    assert main(["normalize", "parts", f"file://{tmp_path}/out.npy"]) == 1


def test_norms_are_called_as_their_parts():
    """The suffix stays where that tells two apart; that of a .npy never has to."""
    pa = pytest.importorskip("pyarrow")
    feather = pytest.importorskip("pyarrow.feather")
    arrays = parts("a.npy", "b.npy", "c.npy")
    table = pa.table({"v": pa.array([[3.0, 4.0, 0.0, 0.0]])})
    for name in ("a.arrow", "d.arrow", "e.arrow", "e.feather"):
        feather.write_feather(table, f"parts/{name}", compression="uncompressed")
    normalize_folder("parts", "unit", norms="norms")
    assert sorted(os.listdir("norms")) == [
        "a.arrow.npy", "a.npy", "b.npy", "c.npy", "d.npy", "e.arrow.npy", "e.feather.npy",
    ]  # fmt: skip
    for name, x in arrays.items():
        np.testing.assert_array_equal(np.load(f"norms/{name}"), l2.norm(x))
    for name in ("a.arrow.npy", "d.npy", "e.feather.npy"):
        np.testing.assert_array_equal(np.load(f"norms/{name}"), [5.0])
    os.remove("norms/b.npy")
    Path("norms/c.npy").write_bytes(b"damaged")
    again = normalize_folder("parts", "unit", norms="norms")
    written = [os.path.basename(part.source) for part in again if part.report is not None]
    assert written == ["b.npy", "c.npy"]
    np.testing.assert_array_equal(np.load("norms/c.npy"), l2.norm(arrays["c.npy"]))
    for folder in ("unit", "parts"):
        with pytest.raises(ValueError, match="norms: expected another folder than those of the"):
            normalize_folder("parts", "unit", norms=folder)
    parts("e.arrow.npy", folder="parts")
    with pytest.raises(ValueError, match=r"norms: those of 2 parts .*'norms.e.arrow.npy'"):
        normalize_folder("parts", "unit", norms="norms")


def test_results_of_parts_that_are_gone_are_told(capsys):
    """And stay; those of another folder, or of parts that were not asked for, are no such."""
    parts("a.npy", "b.npy", "c.npy")
    parts("x.npy", folder="others")
    normalize_folder("parts", "unit")
    normalize_folder("others", "unit")
    os.remove("others/x.npy")
    os.remove("parts/b.npy")
    assert main(["normalize", "parts/a.npy", "parts/c.npy", "unit", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(one.items() - {("source", one["source"])}) for one in told] == [
        [("done before", True), ("target", "unit/a.npy")],
        [("done before", True), ("target", "unit/c.npy")],
        [("stale", True), ("target", "unit/b.npy")],
    ]
    assert os.path.basename(told[2]["source"]) == "b.npy"
    assert os.path.exists("unit/b.npy")
    os.makedirs("moved")
    os.rename("parts", "moved/parts")  # together, they still know each other
    os.rename("unit", "moved/unit")
    assert main(["normalize", "moved/parts", "moved/unit"]) == 0
    out = capsys.readouterr().out
    assert "moved/unit/b.npy: stale, for " in out
    assert "files          0 written, 2 done before, 1 stale\n" in out
    assert main(["normalize", "moved/parts/a.npy", "moved/parts/c.npy", "moved/unit"]) == 0
    assert "1 stale" in capsys.readouterr().out
    os.remove("moved/unit/b.npy")
    assert [part.stale for part in normalize_folder("moved/parts", "moved/unit")] == [False] * 2


@pytest.mark.parametrize("record", [[], {"a.npy": 3}, {"a.npy": {}}, {"b.npy": {"from": 3}}])
def test_a_record_of_something_else(record):
    parts("a.npy")
    os.mkdir("unit")
    Path("unit", RECORD).write_text(json.dumps(record))
    (part,) = normalize_folder("parts", "unit")
    assert part.report is not None


def test_float64_asked_for_is_not_the_default(tmp_path):
    """NumPy finds float64 equal to None, the default."""
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p" / "x.npy", np.ones((2, 2), np.float32))
    wide = normalize_folder(tmp_path / "p", tmp_path / "u", dtype=np.dtype("float64"))
    again = normalize_folder(tmp_path / "p", tmp_path / "u")
    assert wide[0].report.dtype == np.float64
    assert again[0].report.dtype == np.float32


def test_places():
    """Two hosts of one kind are two; a pattern's matches are called as the pattern is."""
    fsspec = pytest.importorskip("fsspec")

    class Buckets(fsspec.AbstractFileSystem):
        """Names begin with those of hosts."""

        protocol = "buckets"

        def __init__(self, host=None, **options):
            super().__init__(host=host, **options)

        @staticmethod
        def _get_kwargs_from_urls(path):
            return {"host": path.partition("://")[2].partition("/")[0][:3]}

        def glob(self, path, **options):
            return ["one-a/x.npy", "one-b/x.npy"]

    fsspec.register_implementation("buckets", Buckets, clobber=True)
    one, two = "buckets://one/x.npy", "buckets://two/x.npy"
    assert _remote.place(one) == _remote.place(one)
    assert _remote.place(one)[0] != _remote.place(two)[0]
    found = _remote.matching("buckets://one-*/x.npy")
    assert found == ["buckets://one-a/x.npy", "buckets://one-b/x.npy"]


@pytest.mark.parametrize(("value", "option"), [(0, "zero"), (np.nan, "nonfinite")])
def test_part_that_a_policy_refuses_is_named(value, option, capsys):
    """Parts before it are done, as the guide says, and it is not."""
    os.mkdir("parts")
    for name, fill in (("0", 1), ("1", value), ("2", 1)):
        np.save(f"parts/{name}.npy", np.full((5, 4), fill, np.float32))
    assert main(["normalize", "parts", "done", f"--{option}", "raise"]) == 1
    out, err = capsys.readouterr()
    assert out == "done/0.npy: 5 vectors\n"
    assert err.endswith("the first at position 0 of the batch, in 'parts/1.npy'\n")
    assert sorted(os.listdir("done")) == [RECORD, "0.npy"]


def test_refusals_of_what_is_in_a_file_name_it(capsys):
    """By itself, in a folder, and at a URL, by the name that the caller knows."""
    from l2multi.files import check_file, normalize_file

    os.mkdir("parts")
    head = b'{"e":{"dtype":"I128","shape":[1],"data_offsets":[0,16]}}'
    whole = len(head).to_bytes(8, "little") + head + bytes(16)
    Path("parts/a.safetensors").write_bytes(whole)
    fsspec.filesystem("memory").pipe("/shelf/a.safetensors", whole)
    told = "source: dtype I128 of tensor 'e' is not supported; accepted are .*, in '{}'$"
    for path in ("parts/a.safetensors", "memory://shelf/a.safetensors"):
        for run in (check_file, lambda path: normalize_file(path, "y.safetensors")):
            with pytest.raises(TypeError, match=told.format(path)):
                run(path)
    with pytest.raises(TypeError, match=told.format("parts/a.safetensors")):
        normalize_folder("parts", "done")
    assert main(["info", "parts/a.safetensors"]) == 1
    assert capsys.readouterr().err.endswith(", in 'parts/a.safetensors'\n")


def test_check_of_a_folder():
    """Of any lengths; who calls is told of each, and may stop."""
    parts("0.npy", "1.npy")
    np.save("parts/2.npy", np.eye(3))
    told = []
    found = check_folder("parts", done=told.append, backend="numpy")
    assert told == found
    assert [one.source for one in found] == [f"parts/{i}.npy" for i in range(3)]
    assert [one.check.unit for one in found] == [0, 0, 3]
    assert [one.check for one in found] == [files.check_file(one.source) for one in found]
    assert check_folder("parts", dims=2, tol=1.0)[2].check.vectors == 3
    assert [one.source for one in check_folder(["parts/2.npy"])] == ["parts/2.npy"]
    fsspec.filesystem("memory").put("parts", "/checked", recursive=True)
    urls = check_folder("memory://checked/")
    assert [one.source for one in urls] == [f"memory://checked/{i}.npy" for i in range(3)]
    with pytest.raises(ValueError, match="source: expected files, got none"):
        check_folder([])


def test_files_of_common_suffixes_are_told(capsys):
    """They may hold vectors; the message of a folder of them alone says how they are taken."""
    parts("0.npy")
    Path("parts/g.txt").write_text("a 3 4\n")
    assert main(["normalize", "parts", "done"]) == 0
    assert "not taken      g.txt (name such files" in capsys.readouterr().out
    os.remove("parts/0.npy")
    assert main(["normalize", "parts", "other"]) == 1
    told = capsys.readouterr().err
    assert ".txt," not in told
    assert told.endswith("of 'g.txt' and the like, name the files or a pattern such as '*.txt'\n")
    assert main(["normalize", "parts/*.txt", "done"]) == 0


def test_norms_of_parts_where_a_file_is(capsys):
    """A folder is asked for, and nothing is made."""
    parts("0.npy")
    Path("norms.npy").write_bytes(b"")
    assert main(["normalize", "parts", "done", "--return-norms", "norms.npy"]) == 1
    assert "--return-norms: expected a folder, for those of each" in capsys.readouterr().err
    assert not os.path.exists("done")


def test_file_into_a_folder(capsys):
    """The message says which path was meant."""
    parts("0.npy")
    assert main(["normalize", "parts/0.npy", "parts"]) == 1
    assert "(try 'parts/0.npy')" in capsys.readouterr().err


def test_names_are_for_parts_that_have_them():
    """In a folder of several formats; where none of the formats has names, one is refused."""
    arrays = parts("a.npy")
    np.savez("parts/b.npz", e=arrays["a.npy"], other=np.ones((2, 4)))
    done = normalize_folder("parts", "unit", tensor="e")
    assert [part.report.vectors for part in done] == [5, 5]
    want = l2.normalize(arrays["a.npy"]).tobytes()
    assert np.load("unit/a.npy").tobytes() == want
    with np.load("unit/b.npz") as file:
        assert file["e"].tobytes() == want
        assert file["other"].tolist() == np.ones((2, 4)).tolist()
    checks = [one.check for one in check_folder("unit", tensor="e")]
    assert [one.unit + one.zero for one in checks] == [5, 5]
    with pytest.raises(ValueError, match=r"^tensor: .*b\.npz"):
        normalize_folder("parts", "other", tensor="none")
    os.unlink("parts/b.npz")
    for call in (lambda: normalize_folder("parts", "other", tensor="e"),
                 lambda: check_folder("parts", tensor="e")):  # fmt: skip
        with pytest.raises(ValueError, match=r"^tensor: expected none, got 'e', and a \.npy file"):
            call()
    assert not os.path.exists("other")


def test_what_is_no_path():
    """Is refused by the name of the argument, one or among others."""
    parts("a.npy")
    for call, name in (
        (lambda: files.normalize_file(3, "b.npy"), "source"),
        (lambda: files.normalize_file("parts/a.npy", 3.5), "target"),
        (lambda: files.normalize_file("parts/a.npy", "b.npy", norms=[1], dry_run=True), "norms"),
        (lambda: files.check_file(["parts/a.npy"]), "source"),
        (lambda: normalize_folder(3, "unit"), "source"),
        (lambda: normalize_folder(["parts/a.npy", 3], "unit"), "source"),
        (lambda: normalize_folder("parts", None), "target"),
        (lambda: check_folder(3), "source"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected a path, got "):
            call()
    assert not os.path.exists("b.npy")
