#!/bin/sh
# arro3-core 0.9.1, pyarrow 26.0.1, numpy 2.4.6, CPython 3.11
#
# arro3 makes an Arrow array of a NumPy array without a look at the byte order: the bytes of a
# big-endian array, as FITS files and many HDF5 files give them, are taken for native ones. Of [3, 4]
# come two subnormals, and no error. Matrices, which become fixed-size lists, and integers fare the
# same. pyarrow refuses such arrays. The Arrow array says that it is native, so nothing after it can
# tell.
#
# Output seen:
#   >f4 [3.0, 4.0] as Float32: [2.304855714121459e-41, 4.600743118071239e-41]
#   >f8 [[3.0, 4.0]] as FixedSizeList(2 x non-null Float64): [[1.0435e-320, 2.0553e-320]]
#   >i4 [3, 4] as Int32: [50331648, 67108864]
#   pyarrow: ArrowNotImplementedError: Byte-swapped arrays not supported
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q arro3-core==0.9.1 pyarrow==26.0.1 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import arro3.core
import numpy as np
import pyarrow as pa

same = True
for x in (np.array([3, 4], ">f4"), np.array([[3, 4]], ">f8"), np.array([3, 4], ">i4")):
    held = arro3.core.Array(x)
    found = pa.array(held).to_pylist()
    kind = str(held.type).strip().removeprefix("arro3.core.DataType<").removesuffix(">")
    print(f"{x.dtype.str} {x.tolist()} as {kind}: {found}")
    same = same and found == x.view(x.dtype.newbyteorder("=")).tolist()
try:
    told = str(pa.array(np.array([3, 4], ">f4")))
except pa.ArrowNotImplementedError as error:
    told = f"ArrowNotImplementedError: {error}"
print("pyarrow:", told)
sys.exit(not (same and told.startswith("ArrowNotImplementedError")))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
