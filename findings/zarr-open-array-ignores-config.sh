#!/bin/sh
# zarr 3.1.6, numpy 2.4.6, CPython 3.11
#
# zarr.open_array of an array that exists drops every keyword in silence. One of them is
# config={"write_empty_chunks": True}, which the deprecation warning of write_empty_chunks=True, which
# is dropped as well, says to use in its place. So chunks that equal the fill value are still left out,
# and with them, in complex arrays, the signs of negative zeros: -0.0 == 0.0 there. Nothing but
# array.with_config, which zarr has since 3.1.6, takes it. (zarr.create_array heeds the keyword.)
#
# Output seen:
#   config=: write_empty_chunks False, signs kept [False, False], chunks stored 0
#   write_empty_chunks=: write_empty_chunks False, signs kept [False, False], chunks stored 0
#   with_config: write_empty_chunks True, signs kept [True, True], chunks stored 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/look.py" <<'PY'
import sys
import warnings

import numpy as np
import zarr

wanted = {"write_empty_chunks": True}
held = np.full(2, complex(-0.0, -0.0), "c8")
told = []
for name in ("config=", "write_empty_chunks=", "with_config"):
    path = f"{sys.argv[1]}/{name}.zarr"
    zarr.create_array(path, shape=(2,), chunks=(2,), dtype="c8", fill_value=0)
    with warnings.catch_warnings(action="ignore"):
        if name == "with_config":
            array = zarr.open_array(path, mode="r+").with_config(wanted)
        else:
            keywords = {"config": wanted} if name == "config=" else wanted
            array = zarr.open_array(path, mode="r+", **keywords)
    array[:] = held
    signs = np.signbit(zarr.open_array(path, mode="r")[:].real).tolist()
    asked = array.config.write_empty_chunks
    print(f"{name}: write_empty_chunks {asked}, signs kept {signs}, chunks stored",
          array.nchunks_initialized)
    told.append(all(signs))
sys.exit(told != [False, False, True])
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "zarr==3.1.6" numpy==2.4.6
"$folder/venv/bin/python" "$folder/look.py" "$folder"
