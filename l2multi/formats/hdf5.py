"""HDF5 by h5py: one dataset changes, in a copy of the file.

Where it keeps its dtype and shape, its numbers are written in their place, so that nothing else in
the copy can change. Else it is made anew with the same attributes, filters and chunks, and HDF5
does not give its former space back (``h5repack`` does).
"""

import builtins
import contextlib
import importlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi import _contract, _formats
from l2multi._formats import Array, Block, Selection
from l2multi._mapped import reserve
from l2multi._sliced import Sliced

# Filters after which a number is another one than was written, by the numbers that they are
# registered under: what is written by these has no unit length any more.
LOSSY = {
    6: "scale-offset", 32013: "ZFP", 32017: "SZ", 32022: "bit groom", 32023: "granular bit round",
    32024: "SZ3", 32025: "delta RICE", 32028: "SPERR",
}  # fmt: skip

# What a file of the size of all its chunks may unpack to: deflate makes 1032 bytes of one at most.
# More has been claimed, and never written.
_UNPACKED, _SPARE = 1032, 2**24

# The floating dtypes that HDF5 has.
_NAMES = tuple(np.dtype(kind).name for kind in "efdgFD")


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(
            f"source: HDF5 needs h5py ({error}); try: pip install 'l2multi[hdf5]'"
        ) from None


@contextlib.contextmanager
def _asked(what: str) -> Iterator[None]:
    """Have what HDF5 refuses name the argument, in one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, OverflowError) as error:
        told = " ".join(f"{error}".split())
        number = re.search(r"errno = (\d+)", told)
        if number and what == "target":
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        raise ValueError(f"{what}: {told}") from None


class Viewed:
    """A dataset of nameless bytes, as the dtype that they are."""

    def __init__(self, dataset: Any, dtype: np.dtype[Any]) -> None:
        self.dataset, self.dtype, self.shape = dataset, dtype, dataset.shape

    def __getitem__(self, window: Any) -> Array:
        found: Array = self.dataset[window].view(self.dtype)
        return found


class Written:
    """A dataset that takes arrays."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __setitem__(self, window: Any, values: Array) -> None:
        with _asked("target"):
            self.dataset[window] = values


class Hdf5(Sliced):
    """A file of which one dataset changes."""

    instead = "float32 (or float16, float64)"

    def __init__(self, file: Any, path: str, dataset: Any, name: str, array: Any) -> None:
        super().__init__(array, dataset.chunks)
        self.file, self.path, self.dataset, self.name = file, path, dataset, name
        self.target: Any = None

    def holds(self, name: str) -> bool:
        return name in _NAMES

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        blocks = super().blocks(axes)
        while True:
            with _asked(f"source: expected a complete HDF5 file, got {self.path!r}"):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def begin(self, path: str, dtype: np.dtype[Any]) -> Any:
        old = self.dataset
        same = dtype == old.dtype.newbyteorder("=") and self.shape == old.shape
        if not same:
            with _asked(f"source: expected a complete HDF5 file, got {self.path!r}"):
                self._check_replaced()
        shutil.copyfile(self.path, path)
        if not same or old.chunks is not None:
            self._reserve(path, dtype)
        try:
            with _asked("target"):
                # The lock on the file is that of whoever may put it in its place.
                self.target = _h5py().File(path, "r+", locking=False)
                dataset = self.target[self.name]
                return Written(dataset if same else _replaced(dataset, self.shape, dtype))
        except BaseException:
            self.finish(False)
            raise

    def _reserve(self, path: str, dtype: np.dtype[Any]) -> None:
        """Take room for what is written now, as if it were not compressed: HDF5 1.14 may end the
        process where a disk is found full while it writes. What is left it gives back."""
        chunks = self.dataset.chunks or self.shape
        counts = (-(-n // size) if size else 0 for n, size in zip(self.shape, chunks, strict=True))
        number = math.prod(counts)
        # Deflate adds less than a thousandth to what it cannot compress.
        each = math.prod(chunks) * dtype.itemsize * 1001 // 1000 + 256
        with builtins.open(path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            reserve(file, end, number * each + 2**20)

    def _check_replaced(self) -> None:
        """Refuse to make a dataset anew that something in the file points to."""
        h5py, old = _h5py(), self.dataset
        pointing: list[str] = []

        def look(name: str, found: Any) -> None:
            values = [
                found.attrs[key]
                for key in found.attrs
                if h5py.check_ref_dtype(found.attrs.get_id(key).dtype) is h5py.Reference
            ]
            if isinstance(found, h5py.Dataset) and h5py.check_ref_dtype(found.dtype):
                values.append(found[()])
            for ref in (ref for value in values for ref in np.ravel(value)):
                if ref and self.file[ref] == old:
                    pointing.append(name or "/")

        look("", self.file)
        self.file.visititems(look)
        link = self.file.get(self.name, getlink=True)
        if h5py.h5ds.is_scale(old.id):
            what = "is a dimension scale"
        elif h5py.h5o.get_info(old.id).rc > 1 or not isinstance(link, h5py.HardLink):
            what = "has several names"
        elif pointing:
            what = f"is referred to by {pointing[0]!r}"
        else:
            return
        raise ValueError(
            f"dataset {self.name!r} {what}, so that it can only keep its dtype, {old.dtype}, and "
            "its dimensions"
        )

    def finish(self, complete: bool) -> None:
        target, self.target = self.target, None
        if target is not None:
            with _asked("target") if complete else contextlib.suppress(Exception):
                target.close()

    def close(self) -> None:
        self.file.close()


def _replaced(old: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A dataset of another dtype or shape in the place of one, and all else as it is there."""
    h5py = _h5py()
    name, parent = old.name.rpartition("/")[2], old.parent
    plist = old.id.get_create_plist()
    plist.set_obj_track_times(False)  # so that the same file comes from the same; h5py does so too
    largest = old.maxshape
    if shape != old.shape:
        largest = (*largest[:-1], None if largest[-1] is None else shape[-1])
    if old.chunks is None:
        plist.set_layout(h5py.h5d.CONTIGUOUS)  # what is compact has no room for more
    else:  # also where it stays, for with it goes the size of elements
        plist.set_chunk((*old.chunks[:-1], max(1, min(old.chunks[-1], shape[-1]))))
    kind = h5py.h5t.py_create(dtype.newbyteorder(">" if old.dtype.byteorder == ">" else "="))
    unlimited = h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple(shape, tuple(unlimited if n is None else n for n in largest))
    if not old.maxshape:  # no dimensions at all
        space = h5py.h5s.create(h5py.h5s.SCALAR)
    scales = [(dim.label, [dim[i] for i in range(len(dim))]) for dim in old.dims]
    for dim, (_, held) in zip(old.dims, scales, strict=True):
        for scale in held:
            dim.detach_scale(scale)
    temporary = f".l2multi-{name}"
    new = h5py.Dataset(h5py.h5d.create(parent.id, temporary.encode(), kind, space, plist))
    for i in range(h5py.h5a.get_num_attrs(old.id)):
        own = h5py.h5a.open(old.id, index=i)
        if own.name in (b"DIMENSION_LIST", b"DIMENSION_LABELS"):
            continue  # which are made with the dimensions
        made = h5py.h5a.create(new.id, own.name, own.get_type(), own.get_space())
        if own.get_space().get_simple_extent_type() != h5py.h5s.NULL:
            value = np.zeros(own.shape, own.dtype)
            own.read(value)
            made.write(value)
    for dim, (label, held) in zip(new.dims, scales, strict=True):
        if label:
            dim.label = label
        for scale in held:
            dim.attach_scale(scale)
    del parent[name]
    parent.move(temporary, name)
    return parent[name]


def open(path: str, selection: Selection) -> Sliced:
    """The dataset that is named, or the only one of floating numbers."""
    h5py = _h5py()
    with _asked(f"source: expected a complete HDF5 file, got {path!r}"):
        file = h5py.File(path, "r", locking=False)
    try:
        return _read(file, path, selection)
    except BaseException:
        file.close()
        raise


def _read(file: Any, path: str, selection: Selection) -> Hdf5:
    """The dataset of an open file."""
    h5py = _h5py()
    whole = f"source: expected a complete HDF5 file, got {path!r}"
    names: list[str] = []
    others: list[str] = []

    def look(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape:
            (names if found.dtype.kind in "fc" else others).append(name)

    wanted = (selection.tensor or "").strip("/")
    with _asked(whole):
        dataset = file.get(wanted) if wanted else None
        if not isinstance(dataset, h5py.Dataset):
            file.visititems(look)
    if not isinstance(dataset, h5py.Dataset):
        wanted = _formats.chosen(names or others, selection.tensor, path)
        dataset = file[wanted]
    with _asked(whole):
        _check(dataset, wanted, file)
    array, dtype = dataset, dataset.dtype
    if selection.dtype_in is not None or dtype.kind == "V":
        array, dtype = _viewed(dataset, wanted, selection.dtype_in)
    try:
        _contract.rule(dtype)
    except TypeError:
        raise TypeError(
            f"source: dtype {dtype} of dataset {wanted!r} is not supported; accepted are "
            f"{_contract.ACCEPTED_DTYPES}"
        ) from None
    return Hdf5(file, path, dataset, wanted, array)


def _viewed(dataset: Any, name: str, dtype_in: np.dtype[Any] | None) -> tuple[Any, Any]:
    """A dataset whose bytes are of a dtype that HDF5 does not name."""
    dtype = dataset.dtype
    if dtype_in is None:
        if dtype.fields is not None or dtype.itemsize > 2:
            return dataset, dtype
        one = "bfloat16" if dtype.itemsize == 2 else "float8_e4m3fn"
        raise TypeError(
            f"source: dtype {dtype} of dataset {name!r} has no meaning of its own; h5py writes it "
            f"for dtypes of ml_dtypes: say which it is, such as dtype_in={one}"
        )
    if dtype.kind not in "Viu" or dtype.fields or dtype.itemsize != dtype_in.itemsize:
        raise TypeError(
            f"dtype_in: expected one that fits dataset {name!r}, which is of {dtype}; "
            f"{dtype_in.name} may be nameless bytes or integers of size {dtype_in.itemsize}"
        )
    return Viewed(dataset, dtype_in), dtype_in


def _check(dataset: Any, name: str, file: Any) -> None:
    """Refuse a dataset whose numbers are elsewhere, are not kept, or were never written."""
    h5py = _h5py()
    plist = dataset.id.get_create_plist()
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise ValueError(f"the numbers of dataset {name!r} are in another file: open that")
    if dataset.shape is None:
        raise ValueError(f"dataset {name!r} is empty, and has no shape")
    for i in range(plist.get_nfilters()):
        code, _, _, told = plist.get_filter(i)
        known = told.decode("utf-8", "replace") or f"{code}"
        if code in LOSSY:
            raise ValueError(
                f"dataset {name!r} is compressed by {LOSSY[code]}, which does not keep numbers as "
                "they are: copy it without"
            )
        if not h5py.h5z.filter_avail(code):
            raise ValueError(
                f"dataset {name!r} is compressed by {known}, which is not there; hdf5plugin has "
                "many: import it first"
            )
    own = dataset.id.get_type()
    if dataset.dtype.kind == "f" and own.get_size() != dataset.dtype.itemsize:
        raise ValueError(f"dataset {name!r} has numbers of a format that NumPy has not")
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if claimed > _UNPACKED * stored + _SPARE:
        raise ValueError(
            f"dataset {name!r} of shape {dataset.shape} claims {claimed} bytes, of which {stored} "
            "were written"
        )
