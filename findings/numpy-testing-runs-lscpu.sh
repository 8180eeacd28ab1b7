#!/bin/sh
# Versions: numpy 2.0.0, array-api-compat 1.11.
#
# Asking array-api-compat for the namespace of a NumPy array starts a process. It imports
# `numpy.testing`, and that module, when it is imported, has the system run `lscpu` to learn whether
# the CPU has SVE, on machines that are not Arm as well. Whoever watches a process for children (a
# sandbox, a memory limit, an audit hook) sees one that no call asked for. With numpy 2.4.6 and
# array-api-compat 1.16.0 the same lines start none.
#
# Output seen:
#   numpy 2.0.0, array-api-compat 1.11: started ['lscpu']
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "numpy==2.0.0" "array-api-compat==1.11"
"$folder/venv/bin/python" - <<'END'
import sys

started = []
sys.addaudithook(lambda event, a: started.append(a[0]) if event == "subprocess.Popen" else None)

import array_api_compat
import numpy as np

array_api_compat.array_namespace(np.empty(0))
about = f"numpy {np.__version__}, array-api-compat {array_api_compat.__version__}"
print(f"{about}: started {started}")
sys.exit(started != ["lscpu"])
END
