#!/bin/sh
# fastparquet 2026.9.0, pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6, CPython 3.11
#
# Parquet has half floats as a logical type of two bytes, and pyarrow writes float16 columns so.
# fastparquet, and pandas with engine="fastparquet", reads such a column without an error as one of
# Python bytes objects. Of a float16 column that it writes itself it makes float32, and of NaN null, so
# neither way do the two agree on halves.
#
# Output seen:
#   written by pyarrow halffloat, read by fastparquet: object [b'\x00B', b'\x00D']
#   written by fastparquet float16 [3.0, nan], read by pyarrow: float [3.0, None]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fastparquet==2026.9.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import fastparquet
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

path = f"{sys.argv[1]}/x.parquet"
table = pa.table({"x": pa.array(np.array([3, 4], np.float16))})
pq.write_table(table, path)
assert pq.read_table(path).equals(table)
column = pd.read_parquet(path, engine="fastparquet")["x"]
print(f"written by pyarrow {table['x'].type}, read by fastparquet: {column.dtype} {column.tolist()}")
frame = pd.DataFrame({"x": np.array([3, np.nan], np.float16)})
fastparquet.write(path, frame)
back = pq.read_table(path)["x"]
print(f"written by fastparquet {frame['x'].dtype} {frame['x'].tolist()}, read by pyarrow:", end=" ")
print(back.type, back.to_pylist())
sys.exit(column.tolist() != [b"\x00B", b"\x00D"] or back.type != pa.float32())
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py" "$folder"
