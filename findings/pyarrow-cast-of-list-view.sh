#!/bin/sh
# pyarrow 16.0.0 and 26.0.1, CPython 3.11 (the project knows: apache/arrow#50994, August 2026)
#
# A cast from list_view to list, or to another width of list, takes the offsets for those of a list
# and does not look at the sizes. Two views of the same two numbers become two empty lists, and the
# array is valid in full: nothing tells that all is gone. Two views in the order of memory, as nearly
# all have them, become an invalid array, of which nothing tells either until it is validated.
# flatten() of the same views gives their numbers in their order; only the cast is wrong.
#
# Output seen:
#   [[1.0, 2.0], [1.0, 2.0]] as large_list, valid in full: [[], []]
#   [[1.0, 2.0], [3.0, 4.0]] as large_list: ArrowInvalid
#   flatten: [1.0, 2.0, 1.0, 2.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyarrow==26.0.1
cat >"$folder/look.py" <<'PY'
import sys

import pyarrow as pa

numbers = pa.array([1.0, 2.0, 3.0, 4.0])


def views(starts, sizes):
    made = pa.ListViewArray.from_arrays(
        pa.array(starts, pa.int32()), pa.array(sizes, pa.int32()), numbers
    )
    made.validate(full=True)
    return made


same, apart = views([0, 0], [2, 2]), views([0, 2], [2, 2])
kind = pa.large_list(pa.float64())
cast = same.cast(kind)
cast.validate(full=True)
print(same.to_pylist(), "as large_list, valid in full:", cast.to_pylist())
try:
    apart.cast(kind).validate(full=True)
    told = "valid"
except pa.ArrowInvalid:
    told = "ArrowInvalid"
print(apart.to_pylist(), "as large_list:", told)
print("flatten:", same.flatten().to_pylist())
sys.exit(cast.to_pylist() != [[], []] or told == "valid")
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
