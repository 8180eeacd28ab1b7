"""``.zarr``: a folder with an array in chunks, or with many arrays in groups; Zarr formats 2 and 3.

The folder is copied but for the chunks of the one array that changes, which zarr-python reads and
writes. Its description stays byte for byte, unless dtype or shape change.
"""

import importlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi import _contract, _formats
from l2multi._formats import Array, Selection
from l2multi._sliced import Sliced

Meta = dict[str, Any]

# The files that describe an array, in its folder.
_OWN = (".zarray", "zarr.json")

# What chunks, and folders of them, are called within the folder of their array.
_CHUNK = re.compile(r"(c|(c[/.])?\d+([/.]\d+)*)")

# Attributes by which numbers stand for others.
_ENCODED = ("scale_factor", "add_offset")


class Zarr(Sliced):
    """A store of which one array changes."""

    instead = "float32 (or float16, float64)"

    def __init__(self, root: str, name: str, held: "Held", dtype_in: np.dtype[Any] | None) -> None:
        self.held, self.vectors = held, _Vectors(held.array, dtype_in or held.dtype)
        super().__init__(self.vectors, held.array.shards or held.array.chunks)
        self.root, self.name = root, name

    def check_axes(self, axes: tuple[int, ...]) -> _contract.Axis:
        lengths = (self.shape[d] if d in axes else n for d, n in enumerate(self.chunks or ()))
        most = self.dtype.itemsize * max(math.prod(lengths), math.prod(self.chunks or ()))
        if most > _memory():
            raise ValueError(
                f"source: the vectors of one row of chunks take {most} bytes, by the shape "
                f"{self.vectors.shape} and the chunks {self.chunks}, and this machine has "
                f"{_memory()}"
            )
        return super().check_axes(axes)

    def holds(self, name: str) -> bool:
        own = self.held.dtype.name if self.held.dtype.name in _contract.ML_FLOATS else None
        return name in ("float16", "float32", "float64", "complex64", "complex128", own)

    def begin(self, path: str, dtype: np.dtype[Any]) -> Any:
        changes: dict[str, Any] = {}
        if dtype != self.held.dtype.newbyteorder("="):
            changes["dtype"] = dtype
        if self.shape != self.vectors.shape:
            changes["shape"] = self.shape
        copy_but_chunks(self.root, path, self.name, changes)
        return Target(os.path.join(path, self.name))


class Held:
    """An array as zarr-python has it, and its `dtype`: TensorStore writes arrays of bfloat16 and
    float8, which zarr-python cannot open but as integers of the same bytes."""

    def __init__(self, folder: str, mode: str) -> None:
        library, meta = _library(), _described(folder) or {}
        name = meta.get("data_type", meta.get("dtype"))
        if name not in _contract.ML_FLOATS:
            self.array = library.open_array(folder, mode=mode)
            self.dtype = self.array.dtype
            return
        self.dtype = _formats.ml_dtype("source", name)
        bits = np.dtype(f"u{self.dtype.itemsize}")
        fill = meta["fill_value"] or 0
        if isinstance(fill, str) and fill.startswith("0x"):
            fill = int(fill, 16)
        else:
            fill = int(np.array(float(fill), self.dtype).view(bits))
        own = {"data_type": bits.name} if "data_type" in meta else {"dtype": bits.str}
        raw = json.dumps({**meta, **own, "fill_value": fill}).encode()
        storage = importlib.import_module("zarr.storage")

        class Renamed(storage.WrapperStore):  # type: ignore[misc,name-defined]
            """A folder that says so."""

            async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
                if key in _OWN:
                    return prototype.buffer.from_bytes(raw) if key == file else None
                return await super().get(key, prototype, byte_range)

        file = _OWN["data_type" in meta]
        store = Renamed(storage.LocalStore(folder, read_only=mode == "r"))
        self.array = library.open_array(store, mode=mode)


class _Vectors:
    """An array for reading, whose failures are one line."""

    def __init__(self, array: Any, dtype: np.dtype[Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, dtype

    def __getitem__(self, window: tuple[slice, ...]) -> Array:
        try:
            values = np.asarray(self.array[window])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged chunk fails in whatever way its codec likes
            raise ValueError(f"source: a chunk cannot be read ({_line(error)})") from None
        if values.dtype != self.dtype:
            values = values.astype(values.dtype.newbyteorder("=")).view(self.dtype)
        return values


class Target:
    """An array for writing, which holds to the bit what it was given."""

    def __init__(self, path: str) -> None:
        held = Held(path, "r+")
        # A chunk of complex -0.0 counts as empty otherwise, and is read back as +0.0.
        config = {"write_empty_chunks": held.dtype.kind == "c"}
        self.array = held.array.with_config(config)
        self.full = held.array.with_config({"write_empty_chunks": True})
        self.view = held.dtype != self.array.dtype

    def __setitem__(self, window: tuple[slice, ...], unit: Array) -> None:
        unit = np.ascontiguousarray(unit).view(self.array.dtype) if self.view else unit
        # A chunk whose first number is not that of empty ones is none of them. Who is not told so
        # compares all of its numbers, and writing takes a sixth longer.
        first = unit[tuple(slice(None, None, n) for n in self.array.chunks)]
        fill = self.array.fill_value or 0
        known = ((first != fill) & (first == first)).all()
        (self.full if known else self.array)[window] = unit
        if self.array.filters:
            back = np.asarray(self.array[window])
            if back.astype(unit.dtype).tobytes() != np.ascontiguousarray(unit).tobytes():
                raise ValueError(
                    "source: the array's filters do not keep unit vectors as they are, and the "
                    f"result would have them too: {self.array.filters}"
                )


# Bytes of vectors from which those that are stored are counted, and how many one of these may stand
# for, by compression and by chunks that are not there.
LARGE, DENSEST = 2**40, 10**6


def _check_stored(path: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse vectors of which next to none are stored: reading what stands for the others, number
    by number, would take days."""
    claimed, stored = math.prod(shape) * itemsize, 0
    if claimed < LARGE:
        return
    for folder, _, names in os.walk(path):
        stored += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
        if stored * DENSEST >= claimed:
            return
    raise ValueError(
        f"source: expected vectors that are stored, got {path!r}, which claims {claimed:,} "
        f"bytes of them and has {stored:,}"
    )


def open(path: str, selection: Selection) -> Sliced:
    """The array that is named, or the only one."""
    _library()
    names = sorted(_arrays(path))
    if not names:
        raise ValueError(f"source: expected a .zarr folder with an array, got {path!r}")
    asked = None if selection.tensor is None else selection.tensor.strip("/")
    name = _formats.chosen(names, asked, path)
    own = os.path.join(path, name)
    meta = _described(own)
    if '"pickle"' in json.dumps(meta):
        raise ValueError("source: its chunks are pickled, and nothing is ever unpickled")
    try:
        held = Held(own, "r")
        array = held.array
        coded = [one for one in _ENCODED if one in array.attrs]
        if 0 in (array.shards or array.chunks):
            raise ValueError(f"its chunks are of shape {array.chunks}")
    except OSError:
        raise
    except Exception as error:  # a damaged description fails in whatever way it likes
        raise ValueError(
            f"source: expected a complete .zarr array, got {own!r} ({_line(error)})"
        ) from None
    if coded:
        raise ValueError(
            f"source: the numbers of array {name!r} stand for others, by its attribute "
            f"{coded[0]!r}; decode it first, as xarray.open_zarr does"
        )
    _check_dtype(held.dtype, name, selection.dtype_in)
    _check_stored(own.rstrip(os.sep), array.shape, held.dtype.itemsize)
    return Zarr(path, name, held, selection.dtype_in)


def _library() -> Any:
    """zarr-python, or an ImportError that says what to install."""
    try:
        return importlib.import_module("zarr")
    except ImportError as error:
        raise ImportError(
            f"source: a .zarr folder needs zarr ({error}); try: pip install 'zarr>=3.1.6' or, in a "
            "clone of l2multi, pip install '.[zarr]'"
        ) from None


def _check_dtype(dtype: np.dtype[Any], name: str, dtype_in: np.dtype[Any] | None) -> None:
    """Refuse an array of no numbers, or of other bytes than are meant."""
    if dtype_in is not None:
        plain = dtype.kind in "Viu" and dtype.name not in _contract.ML_FLOATS
        if dtype != dtype_in and not (plain and dtype.itemsize == dtype_in.itemsize):
            raise TypeError(
                f"dtype_in: expected one that fits array {name!r}, which is of {dtype}; "
                f"{dtype_in.name} may be nameless bytes or integers of size {dtype_in.itemsize}"
            )
        return
    try:
        _contract.rule(dtype)
    except TypeError:
        hint = ""
        if dtype.kind == "V" and dtype.itemsize <= 2 and dtype.names is None:
            one = "bfloat16" if dtype.itemsize == 2 else "float8_e4m3fn"
            hint = f"; say what its bytes are, such as dtype_in={one}"
        raise TypeError(
            f"source: dtype {dtype} of array {name!r} is not supported{hint}; accepted are "
            f"{_contract.ACCEPTED_DTYPES}"
        ) from None


def _memory() -> int:
    """The bytes of memory of this machine, as far as it tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _read(path: str) -> Any:
    """What a file of JSON says; None where there is no such file, or no such thing in it."""
    try:
        with _open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


_open = importlib.import_module("builtins").open


def _described(folder: str) -> Meta | None:
    """The description of the array in this folder, if it has one."""
    for file in _OWN:
        meta = _read(os.path.join(folder, file))
        if isinstance(meta, dict) and (file == ".zarray" or meta.get("node_type") == "array"):
            return meta
    return None


def _arrays(root: str) -> Iterator[str]:
    """The paths of the arrays below a folder; that of itself is empty."""
    for folder, below, files in os.walk(root):
        if any(file in files for file in _OWN) and _described(folder) is not None:
            below.clear()
            yield os.path.relpath(folder, root).replace(os.sep, "/").removeprefix(".")


def tidy(root: str, path: str, name: str) -> None:
    """Remove what somebody who was killed has left in a copy of a store, in the folder of the array
    that changes: what is neither a chunk, nor in the original."""
    for folder, _, found in os.walk(os.path.join(path, name)):
        for file in found:
            whole = os.path.join(folder, file)
            below = os.path.relpath(whole, os.path.join(path, name)).replace(os.sep, "/")
            kept = os.path.join(root, os.path.relpath(whole, path))
            if not (_CHUNK.fullmatch(below) or os.path.exists(kept)):
                os.unlink(whole)


def copy_but_chunks(root: str, path: str, name: str, changes: dict[str, Any]) -> None:
    """Copy a store into an empty folder, without the chunks of one array, of which dtype or shape
    may change."""
    for folder, inner, found in os.walk(root):
        for link in filter(os.path.islink, (os.path.join(folder, one) for one in inner)):
            raise ValueError(
                f"source: expected a store whose folders lie in it, got {root!r}, in which "
                f"{os.path.relpath(link, root)!r} is a link"
            )
        inside = os.path.relpath(folder, os.path.join(root, name)).replace(os.sep, "/")
        made = os.path.join(path, os.path.relpath(folder, root))
        if not _CHUNK.fullmatch(inside):
            os.makedirs(made, exist_ok=True)
        for file in found:
            if not _CHUNK.fullmatch(f"{inside}/{file}".removeprefix("./")):
                shutil.copyfile(os.path.join(folder, file), os.path.join(made, file))
    if not changes:
        return
    parts = name.split("/") if name else []
    for depth in range(len(parts) + 1):
        above, below = os.path.join(path, *parts[:depth]), "/".join(parts[depth:])
        for file in (*_OWN, ".zmetadata"):
            where = os.path.join(above, file)
            meta = _read(where)
            if isinstance(meta, dict) and _change(meta, file, below, changes):
                with _open(where, "w", encoding="utf-8") as written:
                    json.dump(meta, written, indent=2)


def _change(meta: Meta, file: str, below: str, changes: dict[str, Any]) -> bool:
    """Change the description of an array wherever it stands in what a file says; and whether it
    does."""
    if not below and file in _OWN:
        found: Any = meta if file == ".zarray" or meta.get("node_type") == "array" else None
    elif file == ".zmetadata":
        found = meta.get("metadata", {}).get(f"{below}/.zarray".lstrip("/"))
    else:
        found = ((meta.get("consolidated_metadata") or {}).get("metadata") or {}).get(below)
    if not isinstance(found, dict):
        return False
    if "shape" in changes:
        found["shape"] = list(changes["shape"])
    if "dtype" in changes:
        dtype = changes["dtype"]
        if "data_type" in found:
            found["data_type"] = dtype.name
            _recode(found["codecs"], dtype)
        else:
            found["dtype"] = dtype.newbyteorder("<").str
        zero: Any = [0.0, 0.0] if dtype.kind == "c" else 0.0
        if dtype.kind == "c" or isinstance(found["fill_value"], (str, bool)):
            found["fill_value"] = zero
    return True


def _recode(codecs: list[Meta], dtype: np.dtype[Any]) -> None:
    """Have codecs that are told the width of the elements know another."""
    for codec in codecs:
        configuration = codec.setdefault("configuration", {})
        if codec["name"] == "bytes":
            configuration.setdefault("endian", "little")
        elif codec["name"] == "blosc" and "typesize" in configuration:
            configuration["typesize"] = dtype.itemsize
        elif codec["name"] == "sharding_indexed":
            _recode(configuration["codecs"], dtype)
        if not configuration:
            del codec["configuration"]
