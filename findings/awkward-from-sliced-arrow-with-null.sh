#!/bin/sh
# awkward 2.14.0, pyarrow 26.0.1 (22.0.0 too), numpy 2.4.6, CPython 3.11
#
# ak.from_arrow of part of an Arrow array looks for the nulls at the wrong rows: it reads the validity
# bitmap from its first bit and not from the array's offset. So in an array that begins at row 1 a
# valid vector becomes missing, and the null becomes a vector of what lies under it (zeros, where the
# column says that its numbers are never null; a list of nulls else). Nothing is said, and ak.is_valid
# is content. It is so for fixed-size lists, lists and plain numbers, alone, in chunks and in a slice
# of a table. A part without a null, a part that begins at row 0, and a copy (pa.concat_arrays of the
# one part) are right.
#
# Output seen:
#   from row 0 on: [[3.0, 4.0], None, [6.0, 8.0], [1.0, 2.0]]
#   from row 1 on: [[0.0, 0.0], None, [1.0, 2.0]]
#   from row 1 on, in Arrow: [None, [6.0, 8.0], [1.0, 2.0]]
#   from row 1 on, copied: [None, [6.0, 8.0], [1.0, 2.0]]
#   numbers from row 1 on: [0.0, None, 8.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q awkward==2.14.0 pyarrow==26.0.1 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import awkward as ak
import pyarrow as pa

number = pa.field("item", pa.float32(), nullable=False)
rows = pa.array([[3, 4], None, [6, 8], [1, 2]], pa.list_(number, 2))
part = rows.slice(1)
part.validate(full=True)
assert ak.is_valid(ak.from_arrow(part))
found = ak.from_arrow(part).to_list()
copied = ak.from_arrow(pa.concat_arrays([part])).to_list()
plain = ak.from_arrow(pa.array([3, None, 6, 8], pa.float32()).slice(1)).to_list()
print("from row 0 on:", ak.from_arrow(rows).to_list())
print("from row 1 on:", found)
print("from row 1 on, in Arrow:", part.to_pylist())
print("from row 1 on, copied:", copied)
print("numbers from row 1 on:", plain)
right = part.to_pylist()
sys.exit(not (copied == right and found == [[0, 0], None, [1, 2]] and plain == [0, None, 8]))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
