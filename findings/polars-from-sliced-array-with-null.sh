#!/bin/sh
# polars 2.1.0, pyarrow 26.0.1, CPython 3.11
#
# Part of an Arrow column of fixed-size lists goes to polars while it has no null, from any row on;
# as soon as it has one, polars refuses what Arrow's full validation accepts, and the column whole.
# polars slices the values by the array's offset, and the validity bitmap it does not. A copy that
# starts at its own row 0 (pa.concat_arrays of the one slice) is accepted; lists of any lengths are.
#
# Output seen:
#   whole: [[1.0, 2.0], None, [3.0, 4.0]]
#   from row 2 on: [[3.0, 4.0]]
#   from row 1 on: ComputeError: validity mask length must be equal to the number of values divided by size
#   from row 1 on, copied: [None, [3.0, 4.0]]
#   from row 1 on, as list: [None, [3.0, 4.0]]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q polars==2.1.0 pyarrow==26.0.1
cat >"$folder/look.py" <<'PY'
import sys

import polars as pl
import pyarrow as pa

rows = [[1, 2], None, [3, 4]]
x = pa.array(rows, pa.list_(pa.float32(), 2))
x.slice(1).validate(full=True)
print("whole:", pl.Series(x).to_list())
print("from row 2 on:", pl.Series(x.slice(2)).to_list())
try:
    told = str(pl.Series(x.slice(1)).to_list())
except pl.exceptions.ComputeError as error:
    told = f"ComputeError: {error}"
print("from row 1 on:", told)
print("from row 1 on, copied:", pl.Series(pa.concat_arrays([x.slice(1)])).to_list())
print("from row 1 on, as list:", pl.Series(pa.array(rows, pa.list_(pa.float32())).slice(1)).to_list())
sys.exit(not told.startswith("ComputeError: validity mask length"))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
