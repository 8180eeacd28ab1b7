"""Mutants of the contract, the walk, the tables and the containers: which do the tests let live?

``python -m benchmarks.mutants COUNT`` makes so many, one at a time, in a copy of the repository: a
comparison turned, ``and`` for ``or``, ``not`` dropped, a number one larger, a condition turned, a
call or a ``raise`` left out, None returned. On each it runs tests that concern the file, until one
fails. Who survives is printed, and is either no fault (equivalent) or a test that is missing.
"""

import argparse
import ast
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds that tests may take; who goes round for ever is found

PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")

SHARED = tuple(
    f"tests/conformance/test_{name}.py" for name in ("meaning", "out", "types", "layouts")
)
ANY = "tests/test_any.py"
GENERAL = (*SHARED, "tests/test_api.py", ANY)

# What is tested for a file: the tests, and the subjects that they run on.
TESTS = {
    "_contract.py": (GENERAL, "numpy"),
    "_call.py": (GENERAL, "numpy"),
    "_opened.py": ((*GENERAL, "tests/test_wrapped.py"), "numpy,numpy:JAX array,numba:pint"),
    "_containers.py": (
        ("tests/test_api.py", "tests/test_wrapped.py", SHARED[2], "tests/test_architecture.py"),
        "numpy",
    ),
    "_backends.py": (
        ("tests/test_api.py", "tests/test_import.py", SHARED[2], "tests/test_architecture.py"),
        "numpy",
    ),
    "containers/arrow.py": (("tests/test_arrow.py", SHARED[0], ANY), "numba:Arrow"),
    "containers/arrow_capsule.py": (
        ("tests/test_arrow.py", SHARED[0]),
        "numba:nanoarrow lists",
    ),
    "containers/array_api.py": (
        ("tests/backends/test_array_api.py", SHARED[0]),
        "array_api:strict,numpy:array-api-strict",
    ),
    "containers/dask_array.py": (
        ("tests/test_dask.py", SHARED[0], ANY),
        "numba:Dask,numpy:Dask split",
    ),
    "containers/jax_sparse.py": (
        ("tests/backends/test_jax_sparse.py", SHARED[0]),
        "jax:BCOO,jax:BCSR",
    ),
    "containers/masked.py": ((*GENERAL,), "numpy:masked array,numba:masked entries,numpy"),
    "containers/numbers.py": (GENERAL, "numpy,numba:list"),
    "containers/numpy_array.py": (GENERAL, "numpy,numpy:recarray"),
    "containers/pandas_frame.py": (
        ("tests/test_pandas.py", SHARED[0], ANY),
        "numba:pandas,numba:pandas rows,numpy:nullable DataFrame,numba:DataFrame",
    ),
    "containers/polars_series.py": (("tests/test_polars.py", SHARED[0]), "numpy:Polars"),
    "containers/quantity.py": (("tests/test_wrapped.py", SHARED[0]), "numba:pint"),
    "containers/scipy_sparse.py": (
        ("tests/test_scipy_sparse.py", SHARED[0], ANY),
        "numba:csr_array",
    ),
    "containers/torch_gradient.py": (("tests/backends/test_torch.py",), "torch:numba"),
    "containers/torch_operators.py": (("tests/backends/test_torch_operators.py",), "torch:numba"),
    "containers/torch_sparse.py": (("tests/backends/test_torch.py",), "torch:numba"),
    "containers/torch_tensor.py": (
        ("tests/backends/test_torch.py", *SHARED[:2]),
        "torch:numba",
    ),
    "containers/xarray_array.py": (("tests/test_wrapped.py", SHARED[0]), "numba:DataArray"),
}

TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


class Mutant(NamedTuple):
    """A file with one change."""

    file: str
    line: int
    change: str
    source: str


def _changed(node: ast.AST) -> ast.AST | None:
    """A node that does something else, or None for what is left alone."""
    match node:
        case ast.Compare(left, [first, *rest], others):
            return ast.Compare(left, [TURNED[type(first)](), *rest], others)
        case ast.BoolOp(op, values):
            return ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(bool(value)):
            return ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            return ast.Constant(value + 1)
        case ast.Return(ast.expr()):
            return ast.Return(ast.Constant(None))
        case ast.If(test, body, orelse):
            return ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Expr(ast.Call()) | ast.Raise():
            return ast.Pass()
    return None


def _skipped(tree: ast.AST) -> set[ast.AST]:
    """What only says something: annotations, decorators, protocols and the rows of tables."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        some = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        some += getattr(node, "decorator_list", [])
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        ):
            some.append(node)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS":
            some.append(node)
        for one in some:
            found.update(ast.walk(one) if isinstance(one, ast.AST) else ())
    return found


def places(source: str) -> list[int]:
    """What there is to change in a file: the numbers of nodes, in the order of `ast.walk`."""
    tree = ast.parse(source)
    skipped = _skipped(tree)
    return [
        i
        for i, node in enumerate(ast.walk(tree))
        if node not in skipped and hasattr(node, "lineno") and _changed(node) is not None
    ]


def mutant(file: str, source: str, place: int) -> Mutant:
    """A file with the node of this number changed."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    node = nodes[place]
    new = _changed(node)
    assert new is not None
    before, after = (ast.unparse(one).partition("\n")[0] for one in (node, new))
    for parent in nodes:
        for name, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, name, new)
            elif isinstance(value, list):
                setattr(parent, name, [new if one is node else one for one in value])
    changed = ast.unparse(ast.fix_missing_locations(tree))
    return Mutant(file, getattr(node, "lineno", 0), f"{before} -> {after}", changed)


def survives(tree: Path, made: Mutant) -> bool:
    """Whether all tests pass on a mutant."""
    path = tree / "l2multi" / made.file
    sound = path.read_text(encoding="utf-8")
    tests, subjects = TESTS[made.file]
    path.write_text(made.source, encoding="utf-8")
    try:
        return all(
            subprocess.run(
                [*PYTEST, *some, *tests, "--backends", subjects],
                cwd=tree, capture_output=True, timeout=LIMIT,
            ).returncode in allowed
            for some, allowed in ((("-m", "quick"), (0, 5)), ((), (0,)))  # few tests may be quick
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(sound, encoding="utf-8")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.mutants")
    parser.add_argument("count", type=int)
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "l2multi"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "findings"))
        sources = {file: (tree / "l2multi" / file).read_text(encoding="utf-8") for file in TESTS}
        found = [
            (file, place)
            for file, source in sources.items()
            if arguments.only in file
            for place in places(source)
        ]
        random.Random(arguments.seed).shuffle(found)
        alive, tried = 0, found[: arguments.count]
        for file in sorted({file for file, _ in tried}):
            if not survives(tree, Mutant(file, 0, "", sources[file])):
                raise SystemExit(f"{file}: its tests fail without a change, or none is there")
        for file, place in tried:
            made = mutant(file, sources[file], place)
            if survives(tree, made):
                alive += 1
                print(json.dumps(made[:3]), flush=True)
    print(f"{len(tried)} of {len(found)} mutants, {len(tried) - alive} found, {alive} survive")
    return 0


if __name__ == "__main__":
    main()
