"""Where kernels come from: the package, the user's cache, or the compiler, in this process."""

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2multi.backends.numba import build, cache, fast_call, loader, machine, shipped
from l2multi.backends.numba.pairs import own
from tests.processes import run

ROWS = ("rows", "float32", "float32")

COLD = """
    import os, sys, threading, time
    import numpy as np, l2multi as l2
    x = np.random.default_rng(0).standard_normal((10, 768)).astype(np.float32)
    want = l2.normalize(x, backend="numpy")
    def settle():
        from l2multi.backends.numba import loader
        until = time.perf_counter() + 60
        while not loader.linked(("rows", "float32", "float32")):
            assert (l2.normalize(x) == want).all()
            assert time.perf_counter() < until, l2.explain(x)
            time.sleep(0.01)
        for _ in range(2):
            assert (l2.normalize(x) == want).all()
    import ml_dtypes
    z = x.astype(ml_dtypes.float8_e4m3fn)  # for which no kernel ships
    want_z = l2.normalize(z, backend="numpy").tobytes()
"""


def cold(script: str, **environment: str) -> str:
    """The output of a script that runs after COLD, where each warning is an error."""
    return run(COLD, script, warnings="error", **environment)


def test_what_ships_is_here() -> None:
    """This installation has been built with all its kernels, each of which can be linked."""
    found = shipped.file_for(machine.here().name)
    assert not isinstance(found, str), found
    assert set(found.places) == set(shipped.KEYS)
    assert loader.available(*shipped.KEYS)


def test_sources_are_all_that_is_imported() -> None:
    """What a kernel is made of is what the digest is over."""
    script = """
    before = set(sys.modules)
    from l2multi.backends.numba import build
    print(*(name for name in sys.modules if name.startswith("l2multi.backends.numba.")))
    """
    lines = cold(script).split()
    names = {name.removeprefix("l2multi.backends.numba.").replace(".", "/") for name in lines}
    made_of = {"kernels/__init__" if name == "kernels" else name for name in names}
    # The rest is imported by the backend, or tells how many threads a call may use.
    assert made_of - {"cache", "fast_path", "loader", "pairs", "quota"} == set(shipped.SOURCES)


def test_the_first_small_calls_wait_for_nothing(tmp_path: Path) -> None:
    """NumPy serves while LLVM is imported; what ships needs no Numba, and leaves no cache."""
    script = """
    start = time.perf_counter()
    assert (l2.normalize(x) == want).all()
    assert time.perf_counter() - start < 0.2
    assert "numba" not in sys.modules and "llvmlite" not in sys.modules
    settle()
    for a, b in ((x, x), (x.astype("f8"), x.astype("f8")), (x.astype("i2"), x.astype("i2"))):
        for axis in (0, 1, None):
            y = l2.normalize(a, axis)
            assert y.tobytes() == l2.normalize(b, axis, backend="numpy").tobytes()
    assert "numba" not in sys.modules
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_a_large_first_call_has_its_kernel() -> None:
    """From the first call on."""
    script = """
    from l2multi import _backends
    big = np.ones((6000, 768), np.float32)
    numpy = _backends.load(_backends.first("numpy"))
    numpy.normalize = numpy.norm = None
    assert (l2.normalize(big) == np.float32(768**-0.5)).all()
    """
    cold(script)


def test_what_does_not_ship_is_compiled_once(tmp_path: Path) -> None:
    """At once, in this process; the next finds it in the cache."""
    script = """
    assert l2.normalize(z).tobytes() == want_z
    assert l2.explain(z).backend == "numba"
    print("numba" in sys.modules)
    """
    place = str(tmp_path / "cache")
    assert [cold(script, L2MULTI_CACHE_DIR=place).strip() for _ in range(3)] == [
        "True", "False", "False",
    ]  # fmt: skip


def test_asking_makes_nothing(tmp_path: Path) -> None:
    """Whoever asks gets the answer that a call would give, and no kernel is made for it."""
    script = """
    threads = threading.active_count()
    for a in (x, z):
        assert l2.explain(a).backend == "numba"
        assert not l2.is_normalized(a).any()
    l2.show_versions()
    assert threading.active_count() == threads
    assert "numba" not in sys.modules or not os.path.exists(os.environ["L2MULTI_CACHE_DIR"])
    """
    told = cold(script, L2MULTI_CACHE_DIR=str(tmp_path / "cache"))
    assert f"{len(shipped.KEYS)} for {machine.here().name}" in told
    assert not (tmp_path / "cache").exists()


def test_no_process_is_started(tmp_path: Path) -> None:
    """By no call, compiled for or not, nor by JAX programs: Python tells of each that is."""
    script = """
    def hook(event, arguments):
        if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system"):
            raise SystemExit(f"{event} {arguments}")
    sys.addaudithook(hook)
    l2.normalize(x), l2.normalize(z), l2.norm(z), l2.explain(x), l2.show_versions()
    settle()
    import jax, jax.numpy as jnp
    jax.jit(jax.grad(lambda v: l2.normalize(v)[:, 0].sum()))(jnp.asarray(x))
    l2.norm(jnp.asarray(x))
    children = f"/proc/self/task/{threading.get_native_id()}/children"
    assert not os.path.exists(children) or not open(children).read()
    """
    pytest.importorskip("jax")
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path / "cache"))


def test_without_numba(tmp_path: Path) -> None:
    """What ships is served; of the rest, auto has NumPy, and who named Numba is told the cure."""
    script = """
    sys.modules["numba"] = None
    for backend in ("numba", None):
        for a in (x, x.astype("f2"), x.astype("i8")):
            y = l2.normalize(a, 0, backend=backend)
            assert y.tobytes() == l2.normalize(a, 0, backend="numpy").tobytes()
    settle()
    assert l2.normalize(z).tobytes() == want_z
    assert "numba" in l2.explain(z).why and l2.explain(z).backend == "numpy"
    try:
        l2.normalize(z, backend="numba")
    except ImportError as error:
        assert "pip install numba" in str(error)
    else:
        raise AssertionError
    l2.show_versions()
    """
    assert "usable" in cold(script, L2MULTI_CACHE_DIR=str(tmp_path / "cache"))


def test_without_llvm(tmp_path: Path) -> None:
    """A library that will not import is a reason to use NumPy, without a warning."""
    script = """
    sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
    until = time.perf_counter() + 60
    while l2.explain(x).backend != "numpy":
        assert (l2.normalize(x) == want).all()
        assert time.perf_counter() < until
        time.sleep(0.01)
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


def test_no_threads_are_to_be_had() -> None:
    """The first call links, then."""
    script = """
    def refuse(self):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refuse
    assert (l2.normalize(x) == want).all()
    assert l2.explain(x).backend == "numba"
    from l2multi.backends.numba import loader
    assert loader.linked(("rows", "float32", "float32"))
    """
    cold(script)


@pytest.mark.parametrize("what", ["EMFILE", "ENOMEM", "EAGAIN"])
def test_want_of_resources_passes(what: str, tmp_path: Path) -> None:
    """A kernel that could not be had for want of files or memory is had the next time."""
    script = f"""
    import errno, builtins
    from l2multi.backends.numba import loader
    import llvmlite.binding as llvm
    sound = llvm.create_mcjit_compiler
    def fails(*_, **__):
        raise OSError(errno.{what}, os.strerror(errno.{what}))
    llvm.create_mcjit_compiler = fails
    for backend in (None, "numba"):
        try:
            assert l2.normalize(z, backend=backend).tobytes() == want_z
        except ImportError as error:
            assert backend and os.strerror(errno.{what}) in str(error)
    llvm.create_mcjit_compiler = sound
    assert l2.normalize(z, backend="numba").tobytes() == want_z
    assert l2.explain(z).backend == "numba"
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


def spoil(content: bytes, how: str) -> bytes:
    """What has become of a file."""
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    if how == "garbled":
        return bytes(reversed(content))
    spoilt = bytearray(content)  # one bit of each kilobyte
    for at in range(500, len(spoilt), 1000):
        spoilt[at] ^= 1
    return bytes(spoilt)


HOW = ("truncated", "empty", "garbled", "some bits")


@pytest.mark.parametrize("how", [*HOW, "older", "missing", "a folder"])
def test_damaged_package(how: str, tmp_path: Path) -> None:
    """A file of kernels that is not what was built is not used; what is called is compiled."""
    level = machine.here().name
    content = Path(shipped.FOLDER, level).read_bytes()
    folder = tmp_path / "shipped"
    folder.mkdir()
    if how == "older":
        digest = str(shipped.digest()).encode()
        assert digest in content
        (folder / level).write_bytes(content.replace(digest, digest[::-1]))
    elif how == "a folder":
        (folder / level).mkdir()
    elif how != "missing":
        (folder / level).write_bytes(spoil(content, how))
    several = 2 if how in ("truncated", "some bits") else 1  # else nothing of the file is left
    script = f"""
    from l2multi.backends.numba import shipped
    shipped.FOLDER = {str(folder)!r}
    for axis in (0, 1)[:{several}]:
        for a in (x, x.astype("f2"))[:{several}]:
            y = l2.normalize(a, axis, backend="numba")
            assert y.tobytes() == l2.normalize(a, axis, backend="numpy").tobytes()
    l2.show_versions()
    """
    told = cold(script, L2MULTI_CACHE_DIR=str(tmp_path / "cache"))
    if how == "older":
        assert "other sources" in told
    elif how == "missing":
        assert "none were built" in told


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a process has filled."""
    directory = tmp_path_factory.mktemp("filled")
    cold(USE, L2MULTI_CACHE_DIR=str(directory))
    return directory


USE = """
    assert l2.normalize(z).tobytes() == want_z
    assert l2.normalize(z, 0).tobytes() == l2.normalize(z, 0, backend="numpy").tobytes()
    assert l2.explain(z).backend == "numba"
"""


@pytest.mark.stress
@pytest.mark.parametrize("how", [*HOW, "unreadable", "swapped", "open to others"])
def test_damaged_cache(filled: Path, tmp_path: Path, how: str) -> None:
    """What is damaged is not used, and what can be mended is."""
    directory = shutil.copytree(filled, tmp_path / "cache")
    files = sorted(directory.iterdir())
    sound = [file.read_bytes() for file in files]
    assert len(files) == 2
    if how == "swapped":
        for file, content in zip(files, reversed(sound), strict=True):
            file.write_bytes(content)
    elif how == "open to others":
        directory.chmod(0o777)
        files[0].write_bytes(b"")
    elif how == "unreadable":
        for file in files:
            file.unlink()
            file.mkdir()
    else:
        for file, content in zip(files, sound, strict=True):
            file.write_bytes(spoil(content, how))
    told = cold(USE + "\n    l2.show_versions()", L2MULTI_CACHE_DIR=str(directory))
    if how == "open to others":
        assert files[0].read_bytes() == b""
        assert "others than this user" in told
    elif how != "unreadable":
        assert [file.read_bytes() for file in files] == sound


@pytest.mark.stress
@pytest.mark.parametrize("where", ["", "file/below", "/proc/nowhere"])
def test_no_cache(tmp_path: Path, where: str) -> None:
    """A cache that cannot be, or shall not, is no error."""
    (tmp_path / "file").write_text("")
    cold(USE, L2MULTI_CACHE_DIR=where and str(tmp_path / where))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.stress
def test_two_cold_processes(tmp_path: Path) -> None:
    """Both write, neither reads half a file."""
    environment = {**os.environ, "L2MULTI_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(COLD) + textwrap.dedent(USE)]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_key_holds_all_that_shapes_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these, changed, is a miss; changed back, a hit."""
    monkeypatch.setenv(cache.DIRECTORY, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    kernel = ("rows", "no such", "kind")

    def key() -> bytes:
        found = loader._cache_key(kernel)
        assert found is not None
        return found

    cache.write(key(), b"content")
    from numba.core import config

    def change(name: str) -> None:
        if name == "sources":
            monkeypatch.setattr(shipped, "digest", lambda: "other")
        elif name == "versions":
            monkeypatch.setattr(loader, "_versions", lambda: ["0", "0", "0"])
        elif name == "level":
            other = machine.LEVELS["aarch64"]._replace(name="other")
            monkeypatch.setattr(machine, "here", lambda: other)
        elif name == "environment":
            monkeypatch.setenv("NUMBA_OPT", "1")
        elif name == "file":
            (tmp_path / ".numba_config.yaml").write_text("opt: 1\n")
        elif name == "program":
            monkeypatch.setattr(config, "OPT", 0)
        elif name == "python":
            monkeypatch.setattr(sys, "version", "4.0")

    for name in ("sources", "versions", "level", "environment", "file", "program", "python"):
        assert cache.read(key()) == b"content"
        with monkeypatch.context() as patch:
            original, monkeypatch = monkeypatch, patch
            change(name)
            assert cache.read(key()) is None, name
            monkeypatch = original
        (tmp_path / ".numba_config.yaml").unlink(missing_ok=True)
    assert cache.read(key()) == b"content"
    assert loader._cache_key(("rows", "other", "kind")) != key()


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not been used for longest goes first."""
    monkeypatch.setenv(cache.DIRECTORY, str(tmp_path))
    monkeypatch.setattr(cache, "MOST", 4000)
    for k in range(30):
        cache.write(b"%d" % k, bytes(400))
        for path, age in ((cache._path(str(tmp_path), b"%d" % k), 100 - k),):
            os.utime(path, (1e9 - age, 1e9 - age))
        assert cache.read(b"0") == bytes(400)  # which is used all the time
        assert sum(os.path.getsize(p) for p in cache.files()) <= 4000
    assert cache.read(b"29") == bytes(400)
    assert cache.read(b"1") is None
    begun = tmp_path / "lost.o.1-2"  # by a process that was killed
    begun.write_bytes(bytes(3900))
    os.utime(begun, (1e8, 1e8))
    cache.write(b"30", bytes(400))
    assert not begun.exists()


def test_a_loop_of_small_calls_gets_its_kernel() -> None:
    """A thread that imports beside calls without a pause would get Python's lock now and then."""
    script = """
    from l2multi.backends.numba import loader
    start = time.perf_counter()
    small = np.ones((1, 8), np.float32)
    while not loader.linked(("rows", "float32", "float32")):
        l2.normalize(small)
        assert time.perf_counter() - start < 60
    print(time.perf_counter() - start)
    """
    assert max(float(cold(script)) for _ in range(4)) < 0.5


def test_asking_starts_no_thread() -> None:
    """Nor a helper of the pool, where a call would: `is_normalized` uses those that are there."""
    script = """
    def tasks():
        here = "/proc/self/task"
        return len(os.listdir(here)) if os.path.isdir(here) else threading.active_count()
    big = np.ones((20000, 768), np.float32)
    before = tasks()
    for _ in range(3):
        assert not l2.is_normalized(big).any()
        l2.explain(big)
        assert tasks() == before
    """
    cold(script)


def test_a_kernel_for_the_output_cannot_be_made(tmp_path: Path) -> None:
    """A call that auto gave to Numba writes by way of another array, and raises nothing."""
    script = """
    assert l2.normalize(z).tobytes() == want_z
    from l2multi.backends.numba import build
    def fails(key):
        raise OSError(24, os.strerror(24))
    build.build = fails
    for out in (np.empty(z.shape, z.dtype, order="F"), np.empty((20, 768), z.dtype)[::2]):
        assert l2.normalize(z, out=out) is out
        assert out.tobytes() == want_z
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("what", ["file", "sources", "interface"])
def test_want_of_files_is_not_kept(what: str) -> None:
    """What could not be read for want of descriptors is read the next time."""
    script = f"""
    import builtins, errno, io
    from l2multi.backends.numba import machine, shipped
    what, sound = {what!r}, open
    level = machine.here().name
    def ask():
        if what == "interface":
            from l2multi.backends.jax import cpu_primitives
            return cpu_primitives._interface()
        return shipped.digest() if what == "sources" else shipped.file_for(level)
    if what == "interface":
        import jax
        from l2multi.backends.jax import cpu_primitives
    def fails(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    builtins.open = io.open = fails
    try:
        ask()
    except OSError:
        pass
    else:
        raise AssertionError
    builtins.open = io.open = sound
    assert ask() and "cannot" not in str(ask())
    """
    cold(script)


def test_an_interrupt_of_the_first_compilation(tmp_path: Path) -> None:
    """The next call compiles."""
    script = """
    from l2multi.backends.numba import compiler
    sound, calls = compiler._Typing.insert_function, []
    def interrupted(self, template):
        calls.append(template)
        if len(calls) == 5:
            raise KeyboardInterrupt
        sound(self, template)
    compiler._Typing.insert_function = interrupted
    try:
        l2.normalize(z, backend="numba")
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError
    assert l2.normalize(z, backend="numba").tobytes() == want_z
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("name", ["NUMBA_BOUNDSCHECK", "NUMBA_DEBUGINFO", "NUMBA_OPT"])
def test_settings_find_their_kernels_again(name: str, tmp_path: Path) -> None:
    """A process with the same settings of Numba finds both kernels; how many threads is none."""
    use = USE + "\n    print('numba' in sys.modules)\n"
    settings = {name: "1", "L2MULTI_CACHE_DIR": str(tmp_path)}
    assert cold(use, **settings).strip() == "True"
    assert cold(use, **settings).strip() == "False"
    assert cold(use, NUMBA_NUM_THREADS="1", **settings).strip() == "False"


def test_linked_once() -> None:
    """The same kernel has one address, and a symbol that is not there is an error, not the end."""
    assert loader.address(ROWS) == loader.address(ROWS)
    code = build.build(ROWS)
    with pytest.raises(LookupError, match="no_such_symbol"):
        loader._link(("rows", "none", "none"), code._replace(needs=("no_such_symbol",)))
    assert loader._link(ROWS, code) == loader.address(ROWS)


LEVELS = [level.name for level in machine.levels()]


@pytest.mark.parametrize("level", LEVELS)
def test_the_bits_of_each_level(level: str, tmp_path: Path) -> None:
    """Without the widest registers, and without any but the narrowest, the bits are the same."""
    script = """
    from l2multi.backends.numba import machine
    assert machine.here().name == os.environ["L2MULTI_CPU_LEVEL"]
    rng = np.random.default_rng(5)
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64, np.int8):
        x = (rng.standard_normal((9, 777)) * 40).astype(dtype)
        y = rng.integers(-99, 99, (9, 777)).astype(dtype)  # products near the middle of two
        for x in (x, y, y[:, :80], y[:1]):
            for axis in (0, 1):
                for scale in (1, 2.0**-120, 2.0**110) if dtype != np.float16 else (1, 2.0**-20):
                    v = x if dtype == np.int8 else x * np.array(scale, dtype)
                    got = l2.normalize(v, axis, return_norm=True, backend="numba")
                    want = l2.normalize(v, axis, return_norm=True, backend="numpy")
                    for a, b in zip(got, want):
                        assert a.tobytes() == b.tobytes(), (dtype, v.shape, axis, scale)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    for x in (every.reshape(-1, 1), every.reshape(-1, 64), every[every == every].reshape(-1, 2)):
        got, want = (l2.normalize(x, return_norm=True, backend=b) for b in ("numba", "numpy"))
        for a, b in zip(got, want):
            assert a.tobytes() == b.tobytes(), x.shape
    for dtype in (np.float16, ml_dtypes.bfloat16):
        f = x.astype("f4")
        got, want = (l2.normalize(f, dtype=dtype, backend=b) for b in ("numba", "numpy"))
        assert got.tobytes() == want.tobytes()
    """
    cold(script, L2MULTI_CPU_LEVEL=level, L2MULTI_CACHE_DIR=str(tmp_path))


# What objdump tells of instructions beyond each level: the first byte of those of AVX (C4, C5) and
# of AVX-512 (62) in 64-bit code, registers, and names.
BEYOND = {
    "x86-64-v2": r"\t(62|c4|c5) |.*\t(lzcnt|movbe)|.*%([yz]mm|k[0-7]\b)",
    "x86-64-v3": r"\t62 |.*%(zmm|k[0-7]\b)|.*\tvp(dp|madd52)",
    "x86-64-v4": r".*\tvp(dp|madd52|erm[it]?2?b\b|compress[bw]|expand[bw]|sh[lr]d|opcnt)"
    r"|.*\tv(add|mul|div|sqrt|fmadd\d+)[ps]h\b|.*\tvcvt(pd2ph|ps2phx|ne|ph2psx)",
}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
@pytest.mark.parametrize("level", BEYOND)
def test_the_instructions_of_each_level(level: str, tmp_path: Path) -> None:
    """Kernels of each kind of arithmetic have none that the level does not."""
    script = """
    from l2multi.backends.numba import build, machine
    level, folder = os.environ["LEVEL"], os.environ["FOLDER"]
    machine.aim(level)
    for key in (
        ("columns", "float16", "float16"), ("short_rows", "bfloat16", "bfloat16"),
        ("segmented", "float32", "float32"), ("gathered", "float64", "float64"),
        ("rows", "uint64", "float64"), ("rows", "int8", "float64"),
    ):
        with open(os.path.join(folder, "-".join(key) + ".o"), "wb") as file:
            file.write(build.build(key).code)
    """
    cold(script, LEVEL=level, FOLDER=str(tmp_path))
    command = ["objdump", "-d", "-w", *map(str, tmp_path.glob("*.o"))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        pytest.skip(f"this objdump knows no x86: {told.stderr}")
    beyond = re.compile(BEYOND[level])
    lines = [line.partition(":")[2] for line in told.stdout.splitlines() if "\t" in line]
    assert len(lines) > 5000
    assert not [line for line in lines if beyond.match(line)]
    for lower in itertools.takewhile(level.__ne__, BEYOND):  # or else it tells nothing
        assert any(re.match(BEYOND[lower], line) for line in lines)


def test_a_level_that_cannot_be(tmp_path: Path) -> None:
    """It is named, before a call and after, and NumPy serves; to install Numba is no cure."""
    script = """
    for _ in range(3):
        assert l2.explain(x).backend == "numpy"
        assert "L2MULTI_CPU_LEVEL=x86-64-v9" in l2.explain(x).why, l2.explain(x)
        assert (l2.normalize(x) == want).all()
        time.sleep(0.1)
    assert "numba" not in sys.modules
    try:
        l2.normalize(x, backend="numba")
    except ImportError as error:
        assert "x86-64-v9" in str(error) and "pip" not in str(error)
    else:
        raise AssertionError
    """
    cold(script, L2MULTI_CPU_LEVEL="x86-64-v9", L2MULTI_CACHE_DIR=str(tmp_path))


def test_the_fast_path_checks_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that lie in memory otherwise are not read, and calls are served all the same."""
    slot = fast_call._slot
    assert fast_call.usable()
    for what in ("slot", "moved", "error", "head"):
        fast_call.usable.cache_clear()
        with monkeypatch.context() as patch:
            if what == "slot":
                patch.setattr(fast_call, "_slot", lambda at, k: slot(at, k) ^ (k == 6))
            elif what == "moved":  # by a field, so that what is followed is no address
                patch.setattr(fast_call, "_slot", lambda at, k: 12345 if k == 2 else slot(at, k))
            elif what == "error":
                patch.setattr(fast_call, "_as_expected", lambda a: 1 / 0)
            else:
                patch.setattr(fast_call, "HEAD", 32)
            assert not fast_call.usable()
    fast_call.usable.cache_clear()
    assert fast_call.usable()
    script = """
    from l2multi import _backends
    from l2multi.backends.numba import fast_call
    %s
    for _ in range(3):
        assert (l2.normalize(x, backend="numba") == want).all()
    settle()
    assert not _backends.fast_paths
    """
    cold(script % "fast_call._as_expected = lambda a: False")
    cold(script % "fast_call.function = None")  # which cannot be called


def test_the_fast_path_counts_its_arguments() -> None:
    """Another number of them is no call for it, and not the end of the process."""
    x = np.ones(3, np.float32)
    pair: Any = own(x.dtype)
    pair.worker("rows")
    call = pair.fast_call
    assert call(x, x.copy(), None, 0.0, -1, True, False, 1) is True
    assert call(x, x.copy(), None, 0.0, -1, True, False, 1, None) is False


@pytest.mark.stress
def test_fork_while_llvm_is_imported(tmp_path: Path) -> None:
    """The child does not have the thread, and gets its kernel all the same."""
    script = """
    import signal
    l2.normalize(x)
    for _ in range(5):
        time.sleep(0.007)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            settle()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    settle()
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


@pytest.mark.stress
def test_the_end_while_llvm_is_imported() -> None:
    """A process may end at any moment after its first call."""
    for wait in (0, 5, 10, 15, 20, 30, 40, 60):
        cold(f"l2.normalize(x); time.sleep({wait / 1000})")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86")
def test_levels_in_order() -> None:
    """Each level has what those before it have, and what is here is the highest."""
    names = [name for name in machine.LEVELS if name.startswith("x86")]
    for lower, higher in itertools.pairwise(names):
        assert set(machine.LEVELS[lower].features) < set(machine.LEVELS[higher].features)
    assert [level.name for level in machine.levels()] == names[: len(LEVELS)]


@pytest.mark.parametrize(
    ("system", "architecture", "name"),
    [
        ("Linux", "AArch64", "aarch64"),
        ("Windows", "ARM64", "aarch64-windows"),
        ("Darwin", "arm64", "aarch64-darwin"),
        ("Linux", "riscv64", machine.NATIVE),
    ],
)
def test_levels_of_other_machines(
    system: str, architecture: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships is for Linux: elsewhere kernels have other names, and are compiled where used."""
    monkeypatch.delenv(machine.ENVIRONMENT, raising=False)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    level = machine.here.__wrapped__()
    assert level.name == name
    assert bool(level.triple) == (name == "aarch64")


@pytest.mark.parametrize(
    ("system", "environment", "place"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/l2multi"),
        ("linux", {"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/l2multi"),
        ("linux", {"XDG_CACHE_HOME": "x", "HOME": "/h"}, None),  # the standard has it ignored
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/l2multi"),
        ("win32", {"LOCALAPPDATA": "/w"}, "/w/l2multi"),
        ("win32", {}, None),
    ],
)
def test_where_the_cache_is(
    system: str, environment: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each system has such files, if nobody names a directory."""
    monkeypatch.setattr(sys, "platform", system)
    for name in (cache.DIRECTORY, "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache.directory() == place


# What leans on inner parts of Numba, LLVM and Python, by who would miss them: all, or who compiles.
PRIVATE = {
    "llvmlite.binding.create_mcjit_compiler": "link",
    "llvmlite.binding.add_symbol": "link",
    "llvmlite.binding.get_host_cpu_features": "link",
    "llvmlite.binding.ObjectFileRef": "link",
    "llvmlite.binding.get_host_cpu_name": "link",
    "numba.core.codegen.AOTCPUCodegen": "compile",
    "numba.core.typed_passes.NativeLowering": "compile",
    "numba._dynfunc.make_function": "compile",
    "numba.core.typing.templates.ConcreteTemplate": "compile",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_not_what_it_was(name: str, tmp_path: Path) -> None:
    """Where a library's inner parts are gone, a call costs more, and fails only if Numba is named
    and cannot serve."""
    script = f"""
    import importlib
    owner, _, attribute = {name!r}.rpartition(".")
    need = {PRIVATE[name]!r}
    delattr(importlib.import_module(owner), attribute)
    for a, want_a, ships in ((x, want.tobytes(), True), (z, want_z, False)):
        for _ in range(3):
            assert l2.normalize(a).tobytes() == want_a
            time.sleep(0.1)
        served = need == "compile" and ships
        assert l2.explain(a).backend == ("numba" if served else "numpy"), l2.explain(a)
        try:
            assert l2.normalize(a, backend="numba").tobytes() == want_a
            assert served
        except ImportError as error:
            assert not served
    l2.show_versions()
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))


def test_numba_s_threads_are_private_too(tmp_path: Path) -> None:
    """Whether they have been started, nobody promises to tell."""
    script = """
    import numba.np.ufunc.parallel as parallel
    del parallel._is_initialized
    big = np.ones((400, 300), np.float32)
    assert (l2.normalize(big, backend="numba") == np.float32(300**-0.5)).all()
    """
    cold(script, L2MULTI_CACHE_DIR=str(tmp_path))
