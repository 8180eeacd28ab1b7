"""The command line: what it prints, what it refuses, how it ends."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi import _bench, _stream, _terminal
from l2multi.cli import main

ROOT = Path(__file__).parent.parent
DIGITS = str(ROOT / "examples" / "digits.npy")
BEFORE = b"what the target held"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    start = ["-c", code] if code else ["-m", "l2multi"]
    return subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def report(capsys) -> dict[str, str]:
    """The report that was printed, and nothing else was."""
    out, err = capsys.readouterr()
    assert err == ""
    return {line[:13].strip(): line[15:] for line in out.splitlines()}


def refused(capsys, *arguments: str, code: int = 1) -> str:
    """The one line of a refusal."""
    try:
        returned = main(arguments)
    except SystemExit as error:
        returned = error.code
    out, err = capsys.readouterr()
    assert (returned, out, err.count("\n")) == (code, "", 1)
    start, message = err[:16], err[16:].rstrip()
    assert start == "l2multi: error: "
    return message


def test_real_input(capsys):
    pixels = np.load(DIGITS)
    assert main(["normalize", DIGITS, "unit.npy", "--backend", "numpy"]) == 0
    norms = np.linalg.norm(pixels.astype(float), axis=-1)
    lines = report(capsys)
    assert float(lines.pop("smallest norm")) == pytest.approx(norms.min())
    assert float(lines.pop("largest norm")) == pytest.approx(norms.max())
    assert lines.pop("time").endswith(" s")
    assert lines.pop("throughput").endswith(" GB/s, read and written")
    assert lines == {
        "files": f"{DIGITS} -> unit.npy",
        "shape": "(1797, 64)",
        "vectors": "1797",
        "length": "64",
        "dtype": "uint8 -> float64",
        "zero vectors": "0",
        "not finite": "0",
        "backend": "numpy",
        "why this one": "asked for by name",
    }
    unit = np.load("unit.npy")
    assert unit.dtype == np.float64
    assert l2.is_normalized(unit).all()


@pytest.mark.parametrize(
    ("text", "axis"),
    [("-1", -1), ("0", 0), ("0,1", (0, 1)), ("-2,-1", (-2, -1)), ("all", None), ("none", None)],
)
@pytest.mark.parametrize("form", ["--axis {}", "--axis={}"])
def test_axis(text, axis, form, capsys):
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    np.save("in.npy", x)
    assert main(["normalize", *form.format(text).split(), "in.npy", "out.npy", "--quiet"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x, axis))
    assert report(capsys) == {}


def test_dtype_zero_and_counts(capsys):
    x = np.array([[3, 4], [0, 0], [np.inf, 1], [0.1, 0]], np.float32)
    np.save("in.npy", x)
    assert main(["normalize", "in.npy", "out.npy", "--dtype", "float16", "--zero", "nan"]) == 0
    lines = report(capsys)
    assert lines["dtype"] == "float32 -> float16"
    assert (lines["zero vectors"], lines["not finite"]) == ("1, at 1", "1, at 2")
    assert (lines["smallest norm"], lines["largest norm"]) == ("0.0", "5.0")
    np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x, dtype="f2", zero="nan"))


def test_dtype_in_eps_and_nonfinite(capsys):
    x = np.array([[3, 4], [0.5, 0]], ml_dtypes.bfloat16)
    np.save("in.npy", x)
    command = ["normalize", "in.npy", "out.npy", "--dtype-in", "bfloat16", "--eps", "1"]
    assert main([*command, "--dtype", "float32", "--nonfinite", "raise"]) == 0
    assert report(capsys)["dtype"] == "bfloat16 -> float32"
    np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x, dtype="float32", eps=1))


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4"])
def test_integers_of_a_few_bits(name, capsys):
    """One in each byte, whose low bits count, whatever numpy.save calls it."""
    x = np.array([[1, -2], [-1, 0]]).astype(name)
    np.save("in.npy", x)
    assert "such as --dtype-in float8_e4m3fn" in refused(capsys, "normalize", "in.npy", "out.npy")
    for wide in (x, x.view("i1") ^ -64):
        np.save("in.npy", wide)
        assert main(["normalize", "in.npy", "out.npy", "--dtype-in", name, "--quiet"]) == 0
        np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x))


def test_what_refusals_say_works():
    """The file of a number, and one called as standard output is."""
    np.save("in.npy", -3.0)
    assert main(["normalize", "in.npy", "./-", "--axis", "all", "--quiet"]) == 0
    assert np.load("-") == -1


@pytest.mark.only("immutable")
def test_jax_without_x64(backend, capsys, monkeypatch):
    """What is said works on the command line."""
    np.save("in.npy", np.ones((3, 4)))
    command = ("normalize", "in.npy", "out.npy", "--backend", "jax")
    for more, about in (((), "IN"), (("--dtype", "longdouble"), "IN")):
        message = refused(capsys, *command, *more)
        assert message.startswith(f"{about}: jax cannot hold float64: ")
        assert "JAX_ENABLE_X64=1 in the environment" in message
    np.save("in.npy", np.ones((3, 4), "f4"))
    message = refused(capsys, *command, "--dtype", "float64")
    assert message.startswith("--dtype: backend 'jax' cannot give float64: float64 needs x64: JAX_")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert run(*command, "--dtype", "float64", "--quiet").returncode == 0
    assert np.load("out.npy").dtype == np.float64


def test_no_vectors(capsys):
    np.save("in.npy", np.ones((0, 3)))
    assert main(["normalize", "in.npy", "out.npy"]) == 0
    lines = report(capsys)
    assert (lines["vectors"], lines["smallest norm"], lines["largest norm"]) == ("0", "-", "-")


def test_versions(capsys, monkeypatch):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"l2multi {l2.__version__}\n"
    monkeypatch.setenv("L2MULTI_BACKEND", "abacus")
    monkeypatch.setenv("L2MULTI_JAX_KERNELS", "off")
    assert main(["versions"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("l2multi ")
    known = ", ".join(l2._backends.NAMES)
    assert re.search(rf"^\$L2MULTI_BACKEND +abacus: unknown, .*; known are {known}$", out, re.M)
    assert re.search(r"^\$L2MULTI_JAX_KERNELS +off: unknown, .*counts as 1", out, re.M)
    assert main(["versions", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    width = max(map(len, told))
    assert out == "".join(f"{name:<{width}}  {value}\n" for name, value in told.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing command"),
        ("enlarge", "No such command 'enlarge'"),
        ("normalize", "Missing argument 'IN... OUT'"),
        ("normalize in.npy", "Invalid value for IN... OUT: expected IN and OUT"),
        ("normalize in.npy out.npy --axis", "Option '--axis' requires an argument"),
        ("normalize in.npy out.npy --axis x", "'--axis': expected an int, ints with commas"),
        ("normalize in.npy out.npy --axis 0,", "'--axis': expected an int, ints with"),
        ("normalize --axis -2 -1 in.npy out.npy", "No such option: -1"),
        ("normalize in.npy out.npy --axes 0", "No such option: --axes"),
        ("normalize in.npy out.npy --axes 0", "(try: l2multi normalize --help)"),
        ("check", "Missing argument 'IN'"),
        ("info in.npy more", "(more) (try: l2multi info --help)"),
        ("versions more", "(more) (try: l2multi versions --help)"),
        ("normalize - out.npy", "'IN... OUT': expected the path of a file: standard input"),
        ("normalize in.npy -", "a file called - is ./- (try: l2multi normalize --help)"),
        ("check -", "'IN': expected the path of a file: standard input"),
        ("normalize in.npy out.npy --zero no", "'--zero': expected one of keep, nan, raise, "),
        ("normalize in.npy out.npy --backend no", "'--backend': expected one of numba, numpy"),
        ("normalize in.npy out.npy --nonfinite no", "'--nonfinite': expected one of propagate"),
        ("normalize in.npy out.npy --eps no", "Invalid value for '--eps': "),
        ("normalize in.npy out.npy --dims no", "Invalid value for '--dims': "),
        ("normalize in.npy out.npy --dtype-in f4", "'--dtype-in': expected one of bfloat16, "),
        ("normalize in.npy out.npy --verbose", "No such option: --verbose"),
    ],
)
def test_usage(capsys, arguments, message):
    assert message in refused(capsys, *arguments.split(), code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.npy out.npy", "IN: No such file or directory: 'none.npy'"),
        ("/dev/null out.npy", "IN: expected a .npy file, got '/dev/null', which is not a file"),
        ("/dev/null out.npy", "a pipe has to be saved to one first"),
        ("text.npy out.npy", "IN: expected a .npy file, got 'text.npy'"),
        ("short.npy out.npy", "IN: expected a complete .npy file of numbers"),
        ("archive.npz out.npy", "OUT: expected a name that ends in .npz, which is what"),
        ("archive.npy out.npy", "which is an archive; call it .npz"),
        ("void.npy out.npy", "IN: dtype '|V2' has no meaning"),
        ("void.npy out.npy", "such as --dtype-in bfloat16"),
        ("void.npy out.npy --dtype-in float8_e5m2", "--dtype-in: expected one that fits the file"),
        ("void.npy out.npy --dtype-in bfloat16", "--dtype: bfloat16 has no name in a .npy file"),
        ("void.npy out.npy --dtype-in bfloat16", "such as --dtype float32"),
        ("in.npy in.npy", "OUT: expected another file than the one to read, got 'in.npy'"),
        ("in.npy .", "OUT: expected a file, got '.'"),
        ("in.npy none/out.npy", "OUT: its directory does not exist: 'none/out.npy'"),
        ("in.npy out.npy --axis 7", "--axis: axis 7 is out of bounds"),
        ("number.npy out.npy", "--axis: a number has no axes, try --axis all: axis -1 is out of"),
        ("in.npy out.npy --eps -1", "--eps: expected a non-negative number"),
        ("in.npy out.npy --dtype int8", "--dtype: expected a real floating dtype"),
        ("in.npy out.npy --dtype bfloat16", "--dtype: bfloat16 has no name in a .npy file"),
        ("in.npy out.npy --zero raise", "IN: zero norm in 1 of 3 vectors, the first at posi"),
        ("nan.npy out.npy --nonfinite raise", "IN: inf or NaN in the only vector"),
        ("nan.npy out.npy --eps 1 --nonfinite raise --axis all", "IN: inf or NaN in the only"),
    ],
)
def test_refusal(capsys, arguments, message):
    np.save("in.npy", [[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    np.savez("archive.npz", np.ones(3))
    Path("archive.npy").write_bytes(Path("archive.npz").read_bytes())
    np.save("void.npy", np.zeros(3, "V2"))
    Path("text.npy").write_text("1 2 3\n")
    Path("short.npy").write_bytes(Path("in.npy").read_bytes()[:-1])
    Path("out.npy").write_bytes(BEFORE)
    np.save("nan.npy", [np.nan])
    np.save("number.npy", 3.0)
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert message in refused(capsys, "normalize", *arguments.split())
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_backend_of_the_environment(capsys, monkeypatch):
    np.save("in.npy", np.ones((3, 4)))
    monkeypatch.setenv("L2MULTI_BACKEND", "abacus")
    assert "backend: unknown name 'abacus'" in refused(capsys, "normalize", "in.npy", "out.npy")
    monkeypatch.setenv("L2MULTI_BACKEND", "numpy")
    assert main(["normalize", "in.npy", "out.npy"]) == 0
    assert report(capsys)["backend"] == "numpy"


def test_progress_bar_on_a_terminal_only(capsys, monkeypatch):
    np.save("in.npy", np.ones((3, 4)))
    for more, bar in (((), True), (("--quiet",), False)):
        with monkeypatch.context() as patch:
            patch.setattr(sys.stderr, "isatty", lambda: True)
            assert main(["normalize", "in.npy", "out.npy", *more]) == 0
        assert ("100%" in capsys.readouterr().err) == bar
    assert main(["normalize", "in.npy", "out.npy"]) == 0
    assert capsys.readouterr().err == ""


def test_in_a_thread(capsys):
    np.save("in.npy", np.ones((3, 4)))
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(main(["normalize", "in.npy", "out.npy", "--quiet"]))
    )
    thread.start()
    thread.join()
    assert codes == [0]


def test_signals_are_left_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    np.save("in.npy", np.ones((3, 4)))
    assert main(["normalize", "in.npy", "out.npy", "--quiet"]) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_module_and_exit_codes():
    np.save("in.npy", np.array([[3.0, 4.0]]))
    done = run("normalize", "in.npy", "out.npy", "--backend", "numpy", "--axis", "-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("files          in.npy -> out.npy\nshape          (1, 2)\n")
    done = run("normalize", "in.npy", "in.npy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("l2multi: error: OUT: ")
    done = run("normalize", "in.npy", "/dev/stdout")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("l2multi: error: OUT: expected a file, got '/dev/stdout'")
    assert run("normalise").returncode == 2


def test_import_is_light():
    code = (
        "import sys, numpy; before = set(sys.modules); import l2multi.cli\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = run(code=code)
    assert done.returncode == 0
    for heavy in ("numba", "jax", "scipy", "sklearn", "ml_dtypes"):
        assert repr(heavy) not in done.stdout


# A module that is interrupted while it is imported.
INTERRUPTED = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""


def interrupted(module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command that is interrupted while it imports a module."""
    Path(f"{module}.py").write_text(INTERRUPTED)
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    Path("sitecustomize.py").write_text(handler)  # ignored where run in the background
    return subprocess.run(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["numpy", "typer"])
@pytest.mark.parametrize("way", ["module", "script"])
def test_interrupted_import(module, way):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    name, function = project["project"]["scripts"]["l2multi"].split(":")
    Path("l2multi").write_text(f"import sys\nfrom {name} import {function}\nsys.exit({function}())")
    done = interrupted(module, *(["-m", "l2multi"] if way == "module" else ["l2multi"]), "versions")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "l2multi: interrupted; no file is left half written\n"


def test_interrupted_import_of_the_library():
    """There it is the caller's to see."""
    Path("mine.py").write_text("try:\n import l2multi\nexcept KeyboardInterrupt:\n print('mine')")
    for command in (["mine.py"], ["-m", "mine"]):
        done = interrupted("numpy", *command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")


# A job of a hundred windows and ten seconds, which is never allowed to end.
SLOW = """
import signal, sys, time
from l2multi import _formats, _stream, cli

# Ignored where run in the background, and by nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def slow(*arguments, **keywords):
    time.sleep(0.1)
    return fast(*arguments, **keywords)

fast, _stream.normalize, _formats.WINDOW = _stream.normalize, slow, 400
sys.exit(cli.main(["normalize", "in.npy", "out.npy", "--backend", "numpy"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "l2multi: interrupted; no file is left half written\n"),
        (signal.SIGTERM, 143, ""),
        (signal.SIGHUP, 129, ""),
    ],
)
def test_interrupted(number, code, message):
    np.save("in.npy", np.ones((1000, 10), np.float32))
    Path("out.npy").write_bytes(BEFORE)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        deadline = time.monotonic() + 30
        while not any(name.endswith(".tmp") for name in os.listdir()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", message)
    assert sorted(os.listdir()) == ["in.npy", "out.npy"]
    assert Path("out.npy").read_bytes() == BEFORE


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", [["normalize", "in.npy", "out.npy"], ["check", "in.npy"]])
def test_interrupt_that_python_forgets(number, code, command, monkeypatch, capsys):
    """As one in a callback of a weak reference, which h5py has at each write."""
    np.save("in.npy", np.ones((1000, 10), np.float32))
    Path("out.npy").write_bytes(BEFORE)
    name = "normalize" if command[0] == "normalize" else "norm"
    function = getattr(_stream, name)
    calls = []

    class Thing:
        """What a weak reference is to."""

    def forget(reference):
        signal.raise_signal(number)

    def interrupted(*arguments, **keywords):
        calls.append(arguments)
        thing = Thing()
        reference = weakref.ref(thing, forget)
        del thing
        assert reference() is None
        return function(*arguments, **keywords)

    monkeypatch.setattr(_stream, name, interrupted)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    before = sys.unraisablehook
    try:
        returned = main([*command, "--backend", "numpy"])
    except SystemExit as error:
        returned = error.code
    finally:
        signal.signal(signal.SIGINT, old)
    assert (returned, len(calls)) == (code, 1)
    message = "l2multi: interrupted; no file is left half written\n" * (code == 130)
    assert capsys.readouterr() == ("", message)
    assert Path("out.npy").read_bytes() == BEFORE
    assert sorted(os.listdir()) == ["in.npy", "out.npy"]
    assert sys.unraisablehook is before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_report_that_cannot_be_printed(tmp_path, unbuffered):
    """The line says that it is not OUT that is missing."""
    source, target = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, [[3.0, 4.0]])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "l2multi", "normalize", source, target],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    wanted = "l2multi: error: OUT is complete, but not the report: No space left on device\n"
    assert done.stderr == wanted
    np.testing.assert_allclose(np.load(target), [[0.6, 0.8]])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["normalize", "x.npy", "y.npy"], 0),
        (["normalize", "parts", "unit"], 0),
        (["check", "x.npy"], 1),
        (["info", "x.npy", "--json"], 0),
        (["--help"], 0),
    ],
)
def test_reader_that_has_gone(tmp_path, arguments, code):
    """As of `l2multi ... | head`: the work is done, and what it came to is told."""
    np.save(tmp_path / "x.npy", [[3.0, 4.0]])
    (tmp_path / "parts").mkdir()
    for name in "ab":
        np.save(tmp_path / "parts" / f"{name}.npy", [[3.0, 4.0]])
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "l2multi", *arguments],
            cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (code, "")
    if arguments[0] == "normalize":
        made = tmp_path / ("y.npy" if arguments[-1] == "y.npy" else "unit/b.npy")
        np.testing.assert_allclose(np.load(made), [[0.6, 0.8]])


def test_info_lists_what_is_to_be_named(capsys):
    """With shapes and dtypes, or why it cannot be taken; what needs a name asks for it."""
    np.savez("x.npz", emb=np.ones((5, 4), np.float32), words=np.array(["a"]), b=np.ones(3))
    assert main(["info", "x.npz"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split() for line in told[:1]] == [["file", "x.npz"]]
    assert "--tensor       emb: (5, 4) float32" in told
    assert "--tensor       b: (3,) float64" in told
    assert main(["info", "x.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tensors"]
    assert found["emb"] == {"shape": [5, 4], "dtype": "float32"}
    message = refused(capsys, "normalize", "x.npz", "y.npz")
    assert message.endswith("got none; name one, such as --tensor 'emb'")


def test_warm(tmp_path, monkeypatch, capsys):
    """It compiles what does not ship, and a later process finds it."""
    command = [sys.executable, "-m", "l2multi", "warm", "--dtype", "float16", "--to", "float8_e5m2"]
    environment = {**os.environ, "L2MULTI_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for _ in range(2)
    ]
    assert told == [f"15 kernels are ready, {n} of which were compiled now\n" for n in (8, 0)]
    (tmp_path / "file").write_text("")
    for nowhere in ("", str(tmp_path / "file")):
        done = subprocess.run(
            command, env={**environment, "L2MULTI_CACHE_DIR": nowhere},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert "8 kernels could not be kept for later processes" in done.stderr
    for wrong in ("longdouble", "str", "nothing"):
        assert main(["warm", "--dtype", wrong]) == 1
        assert f"--dtype: {wrong} is not supported; accepted are" in capsys.readouterr().err


def test_zero_vectors_are_found(capsys):
    """Which they are, not only how many; and left out, where that is asked for."""
    x = np.ones((30, 4), np.float32)
    x[::2] = 0
    x[1, 0] = np.nan
    np.save("in.npy", x)
    assert main(["normalize", "in.npy", "out.npy", "--zero", "drop"]) == 0
    lines = report(capsys)
    assert lines["zero vectors"] == "15, at 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, ..."
    assert lines["not finite"] == "1, at 1"
    assert lines["left out"] == "15"
    np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x[1::2]))
    assert "--zero: null is for columns" in refused(
        capsys, "normalize", "in.npy", "y.npy", "--zero", "null"
    )
    np.save("cube.npy", np.ones((2, 3, 4)))
    message = refused(capsys, "normalize", "cube.npy", "y.npy", "--zero", "drop")
    assert message.startswith("--zero: drop is for vectors in the rows of a file, got axis (2,)")
    assert main(["normalize", "cube.npy", "y.npy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["vectors"], told["dtype"], told["shape"]) == (6, "float64", [2, 3, 4])


def test_norms_and_dry_run(capsys):
    x = np.random.default_rng(0).standard_normal((5, 6, 7)).astype("f4")
    for order, axis, of in (("C", "-1", -1), ("F", "0,2", (0, 2)), ("C", "all", None)):
        np.save("in.npy", np.asarray(x, order=order))
        command = ["normalize", "in.npy", "out.npy", "--axis", axis, "--return-norms", "n.npy"]
        assert main([*command, "--dry-run"]) == 0
        lines = report(capsys)
        assert lines["vectors"] == str(l2.norm(x, of).size)
        assert lines["files"] == "in.npy -> out.npy, not written"
        assert sorted(os.listdir()) == ["in.npy"]
        assert main([*command, "--quiet"]) == 0
        np.testing.assert_array_equal(np.load("n.npy"), l2.norm(x, of))
        np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x, of))
        os.remove("out.npy")
        os.remove("n.npy")
    for name in ("in.npy", "out.npy", "norms.txt"):
        message = refused(capsys, *f"normalize in.npy out.npy --return-norms {name}".split())
        assert message.startswith("--return-norms: expected ")
        assert sorted(os.listdir()) == ["in.npy"]


def test_dims(capsys):
    """Cut first, then normalized: what is cut off does not count."""
    x = np.random.default_rng(0).standard_normal((50, 8)).astype("f4")
    x[3, :5] = 0
    np.save("in.npy", x)
    np.save("f.npy", np.asfortranarray(x))
    for name in ("in.npy", "f.npy"):
        assert main(["normalize", name, "out.npy", "--dims", "5"]) == 0
        assert report(capsys)["zero vectors"] == "1, at 3"
        np.testing.assert_array_equal(np.load("out.npy"), l2.normalize(x[:, :5]))
    for dims in ("0", "9"):
        message = refused(capsys, *f"normalize in.npy out.npy --dims {dims}".split())
        assert message == f"--dims: expected from 1 to 8, the length of the vectors, got {dims}"
    message = refused(capsys, "normalize", "in.npy", "out.npy", "--dims", "5", "--axis", "0")
    assert message.startswith("--dims: expected none where axis is not the last")


def test_check(capsys):
    """Its exit code answers."""
    x = l2.normalize(np.random.default_rng(0).standard_normal((100, 8)).astype("f4"))
    np.save("unit.npy", x)
    assert main(["check", "unit.npy"]) == 0
    assert report(capsys)["unit length"] == "100"
    x[5] *= 1.5
    x[7] = 0
    x[9, 2] = np.inf
    np.save("in.npy", x)
    assert main(["check", "in.npy", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["unit"], told["zero"], told["nonfinite"], told["off"]) == (97, 1, 1, 1)
    assert (told["off_at"], told["zero_at"], told["nonfinite_at"]) == ([[5]], [[7]], [[9]])
    assert told["worst"] == pytest.approx(0.5)
    assert sum(told["counts"].values()) == 99
    assert main(["check", "in.npy", "--tol", "0.6", "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")
    assert "No such file" in refused(capsys, "check", "none.npy", code=2)
    assert "--tol: " in refused(capsys, "check", "in.npy", "--tol", "-1", code=2)
    for dtype in ("bfloat16", "float8_e4m3fn"):
        np.save("in.npy", l2.normalize(np.eye(4), dtype=dtype))
        assert main(["check", "in.npy", "--dtype-in", dtype, "--quiet"]) == 0
    np.save("in.npy", np.ones((8, 0)))  # as is_normalized says
    assert main(["check", "in.npy", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["off"] == 8
    np.save("in.npy", np.eye(3, dtype=np.clongdouble))
    assert main(["check", "in.npy", "--quiet"]) == 0


def test_info(capsys):
    np.save("in.npy", np.ones((3, 4), "u1"))
    assert main(["info", "in.npy"]) == 0
    lines = report(capsys)
    assert (lines["shape"], lines["vectors"], lines["unit dtype"]) == ("(3, 4)", "3", "float64")
    assert main(["info", "in.npy", "--json", "--axis", "all"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["vectors"], told["shape"]) == (1, [3, 4])
    os.mkdir("folder.npy")
    assert "for normalize and check" in refused(capsys, "info", "folder.npy")
    assert main(["info", "in.npy", "--dims", "2"]) == 0
    assert report(capsys)["shape"] == "(3, 2)"
    assert refused(capsys, "info", "in.npy", "--dims", "5").startswith("--dims: expected from 1 to")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5", ".zarr"])
def test_which_array_was_taken_is_told(suffix, capsys):
    """By all that read it, called as the option for it."""
    x = np.eye(3, dtype="f4")
    if suffix == ".npz":
        np.savez("in.npz", emb=x, other=np.ones(3))
    elif suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"emb": x, "b": x}, "in.safetensors")
    elif suffix == ".h5":
        with pytest.importorskip("h5py").File("in.h5", "w") as file:
            file["emb"], file["ids"] = x, [1, 2, 3]
    else:
        group = pytest.importorskip("zarr").create_group("in.zarr")
        for name in ("emb", "b"):
            group.create_array(name, shape=(3, 3), dtype="f4")[...] = x
    source, target = "in" + suffix, "out" + suffix
    more = [] if suffix == ".h5" else ["--tensor", "emb"]  # the only one of floating numbers
    for command in (["normalize", source, target], ["check", source], ["info", source]):
        assert main([*command, *more]) == 0
        assert report(capsys)["tensor"] == "emb"
        assert main([*command, *more, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["tensor" if command[0] == "info" else "name"] == "emb"


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in ("normalize", "check", "info", "bench", "warm", "versions"))],
)
def test_help_names_no_type_of_python(command, capsys):
    """Of a flag, an option or an argument, those of typer included."""
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--help" in out
    assert not re.search(r"<\w+", out)


def test_help_says_what_becomes_of_folders(capsys):
    """That of a file has to be there; that of many is made, with those that it is in."""
    assert main(["normalize", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the folder that it is in has to be there" in told
    assert "OUT is a folder, which is made" in told
    os.mkdir("parts")
    np.save("parts/x.npy", np.ones((3, 4)))
    message = refused(capsys, "normalize", "parts/x.npy", "no/such/y.npy")
    assert message == "OUT: its directory does not exist: 'no/such/y.npy'"
    message = refused(capsys, "normalize", "parts/x.npy", "y.npy", "--return-norms", "no/n.npy")
    assert re.match(
        "--return-norms: its directory .*No such file or directory: 'no/n.npy'", message
    )
    assert os.listdir() == ["parts"]
    assert main(["normalize", "parts", "no/such", "--return-norms", "other/n", "--quiet"]) == 0
    assert os.path.exists("no/such/x.npy")
    assert os.path.exists("other/n/x.npy")


def test_check_of_many(capsys):
    """A line for each, the sums, and what its exit code says."""
    os.mkdir("parts")
    x = np.eye(8, dtype="f4")
    np.save("parts/a.npy", x)
    np.save("parts/b.npy", x[:, :6])  # two of which are zero
    Path("parts/c.vec").write_text("a 3 4\nb 0.6 0.8\n")
    Path("parts/d.txt").write_text("a 1 0\n")
    assert main(["check", "parts"]) == 1
    *told, last = capsys.readouterr().out.split("files  ")
    assert told == [
        "parts/a.npy: 8 vectors, 8 of unit length\n"
        "parts/b.npy: 8 vectors, 6 of unit length, 2 zero\n"
        "parts/c.vec: 2 vectors, 1 of unit length, 1 of other length\n"
    ]
    lines = {line[:13].strip(): line[15:] for line in f"files  {last}".splitlines()}
    assert lines.pop("not taken").startswith("d.txt (name such files")
    assert lines == {
        "files": "3 read, 1 all of unit length",
        "vectors": "18",
        "unit length": "15",
        "zero vectors": "2",
        "not finite": "0",
        "other length": "1",
        "furthest off": "4",
        "smallest norm": "0.0",
        "largest norm": "5.0",
    }
    assert main(["check", "parts", "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["source"][6:], one["unit"]) for one in told] == [
        ("a.npy", 8), ("b.npy", 6), ("c.vec", 1),
    ]  # fmt: skip
    for paths in (["parts/a.npy", "parts/d.txt"], ["parts/[a].npy"]):
        assert main(["check", *paths]) == 0
        assert f"{len(paths)} read, {len(paths)} all of unit" in capsys.readouterr().out
    assert main(["check", "parts", "--tol", "4", "--quiet"]) == 1
    assert main(["check", "parts/c.vec", "parts/a.npy", "--tol", "4.1", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    Path("parts/b.npy").write_bytes(b"damaged")
    assert main(["check", "parts"]) == 2
    out, err = capsys.readouterr()
    assert out == "parts/a.npy: 8 vectors, 8 of unit length\n"
    assert err.startswith("l2multi: error: IN: expected a .npy file, got 'parts/b.npy'")
    assert "which matches none" in refused(capsys, "check", "none/*.npy", code=2)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5", ".zarr", ".parquet"])
def test_name_for_example_is_of_floating_numbers(suffix, capsys):
    """The first that comes may be of identifiers, or of words."""
    arrays = {"a": np.arange(6).reshape(3, 2), "ids": np.ones(3, "S2"), "x": np.eye(3, dtype="f4")}
    arrays["y"] = arrays["x"]
    if suffix in (".safetensors", ".zarr"):  # which have no such words
        del arrays["ids"]
    if suffix == ".npz":
        np.savez("in.npz", **arrays)
    elif suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(arrays, "in.safetensors")
    elif suffix == ".h5":
        with pytest.importorskip("h5py").File("in.h5", "w") as file:
            for name, x in arrays.items():
                file[name] = x
    elif suffix == ".zarr":
        group = pytest.importorskip("zarr").create_group("in.zarr")
        for name, x in arrays.items():
            group.create_array(name, data=x)
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        lists = {name: x.tolist() for name, x in arrays.items()}
        pq.write_table(sys.modules["pyarrow"].table(lists), "in.parquet")
    option = "column" if suffix == ".parquet" else "tensor"
    for command in (["normalize", f"in{suffix}", f"out{suffix}"], ["check", f"in{suffix}"]):
        message = refused(capsys, *command, code=2 if command[0] == "check" else 1)
        assert message.startswith(f"--{option}: expected one of ")
        assert message.endswith(f"got none; name one, such as --{option} 'x'")
    if suffix == ".npz":  # where there is none, the first of all
        np.savez("in.npz", a=arrays["a"], b=arrays["a"])
        assert refused(capsys, "check", "in.npz", code=2).endswith("such as --tensor 'a'")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("l2multi ch", ["check"]),
        ("l2multi normalize --ze", ["--zero"]),
        ("l2multi normalize --zero n", ["nan", "null"]),
        ("l2multi check --dtype-in bf", ["bfloat16"]),
    ],
)
def test_a_shell_completes(words, offered):
    """Commands, options, and the words that these take."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": f"{words.count(' ')}"}
    done = subprocess.run(
        [sys.executable, "-m", "l2multi"], check=True, capture_output=True, text=True,
        env={**os.environ, **asked, "_L2MULTI_COMPLETE": "complete_bash"},
    )  # fmt: skip
    assert done.stdout.split() == offered


def test_bench(capsys, monkeypatch):
    monkeypatch.setattr(_bench, "QUICK", ((3, 4),))
    monkeypatch.setattr(_bench, "REST", 0)
    monkeypatch.setattr(_bench, "contenders", lambda x: {"a": np.copy, "b": np.copy})
    assert main(["bench", "--quick", "--json"]) == 0
    cells = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["contender"], one["dtype"]) for one in cells] == [
        (name, dtype) for dtype in ("float32", "float64") for name in "ab"
    ]
    assert all(0.1 < one["against_formula"] < 10 for one in cells)
    plot = ["--plot", "bench.png"] if importlib.util.find_spec("matplotlib") else []
    assert main(["bench", "--quick", *plot]) == 0
    assert "formula / this" in capsys.readouterr().out
    assert not plot or Path("bench.png").read_bytes().startswith(b"\x89PNG")


def test_contenders_of_a_bench():
    found = _bench.contenders(np.ones((2, 3), np.float32))
    assert list(found)[:3] == ["x / numpy.linalg.norm(x)", "l2multi, numba", "l2multi, numpy"]


def test_plots(tmp_path, monkeypatch, capsys):
    """Where matplotlib is; elsewhere, what to install."""
    np.save("in.npy", np.geomspace(1e-3, 1e3, 100)[:, None] * np.ones((100, 4)))
    if importlib.util.find_spec("matplotlib"):
        assert main(["check", "in.npy", "--plot", "norms.png"]) == 1
        assert Path("norms.png").read_bytes().startswith(b"\x89PNG")
        assert "norm from" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["check", "in.npy", "--quiet", "--plot", "norms.png"]) == 2
    assert "try: pip install matplotlib" in capsys.readouterr().err


def test_bins_count_all():
    for sizes in ([1.0], [0.0], [0.0, 1e-300, 1e300], list(np.linspace(1, 2, 999))):
        histogram = _stream.Histogram()
        histogram.add(np.array(sizes))
        found = _terminal.bins(histogram.counts())
        assert sum(found.counts) == len(sizes)
        assert len(found.edges) == len(found.counts) + 1
        assert found.edges == sorted(found.edges)


def test_a_folder(capsys):
    """Parts of one length to the same names; what was done is not done again; a part of another
    width is named. Reports of autofaiss#141 and txtai#584."""
    os.mkdir("parts")
    rng = np.random.default_rng(0)
    arrays = {f"emb_{i}.npy": rng.standard_normal((10 * i, 16)).astype("f2") for i in range(4)}
    for name, x in arrays.items():
        np.save(f"parts/{name}", x)
    for name in ("README", "vocab.txt", "model.bin"):
        Path("parts", name).write_text("not a part")
    assert main(["normalize", "parts", "unit"]) == 0
    out = capsys.readouterr().out
    assert "unit/emb_3.npy: 30 vectors\n" in out
    assert "files          4 written, 0 done before\n" in out
    assert "throughput" in out
    assert main(["normalize", "parts", "unit"]) == 0
    out = capsys.readouterr().out
    assert "files          0 written, 4 done before\n" in out
    assert "throughput" not in out  # of nothing
    for name, x in arrays.items():
        np.testing.assert_array_equal(np.load(f"unit/{name}"), l2.normalize(x))
    assert main(["normalize", "parts", "nowhere", "--dry-run"]) == 0
    assert "files          4 read, none written\n" in capsys.readouterr().out
    assert not os.path.exists("nowhere")
    arrays["emb_2.npy"][0] = 1  # of the same length and, perhaps, the same date
    before = os.stat("parts/emb_2.npy")
    np.save("parts/emb_2.npy", arrays["emb_2.npy"])
    os.utime("parts/emb_2.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime("parts/emb_1.npy")
    os.remove("unit/emb_3.npy")
    assert main(["normalize", "parts/emb_*.npy", "unit"]) == 0
    out = capsys.readouterr().out
    assert "files          2 written, 2 done before\n" in out
    assert "unit/emb_1.npy: was done before\n" in out
    np.testing.assert_array_equal(np.load("unit/emb_2.npy")[0], l2.normalize(np.ones(16, "f2")))
    Path("unit/emb_1.npy").write_bytes(b"damaged")
    assert main(["normalize", "parts", "unit", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one.get("done before") for one in told] == [True, None, True, True]
    assert main(["normalize", "parts", "unit", "--dtype", "float32", "--quiet"]) == 0
    assert np.load("unit/emb_1.npy").dtype == np.float32
    np.save("parts/emb_9.npy", np.ones((2, 15), "f2"))
    message = refused(capsys, "normalize", "parts", "unit")
    assert message.startswith("IN: expected vectors of one length, got 'parts/emb_9.npy', whose")
    os.remove("parts/emb_9.npy")
    assert main(["normalize", *(f"parts/{n}" for n in arrays), "more", "--return-norms", "n"]) == 0
    capsys.readouterr()
    for name, x in arrays.items():
        np.testing.assert_array_equal(np.load(f"n/{name}"), l2.norm(x))
    assert refused(capsys, "normalize", "parts", "parts").startswith("OUT: expected another folder")
    assert refused(capsys, "normalize", "none/*.npy", "x").startswith(
        "IN: expected files that bear"
    )
    os.mkdir("empty")
    assert "where there are none" in refused(capsys, "normalize", "empty", "x")
    os.mkdir("other")
    np.save("other/emb_1.npy", arrays["emb_1.npy"])
    message = refused(capsys, "normalize", "other/emb_1.npy", "parts/emb_1.npy", "x")
    assert message.startswith("IN: expected files of different names")
    assert not os.path.exists("x")


def test_without_typer():
    """The command says what to install; the library does without."""
    code = "import sys; sys.modules['typer'] = None; from l2multi.__main__ import main as run\n"
    code += "sys.exit(run())"
    done = run("versions", code=code)
    assert done.returncode == 1
    assert done.stderr.startswith("l2multi: error: the command needs typer and rich")
    assert "pip install '.[cli]'" in done.stderr
