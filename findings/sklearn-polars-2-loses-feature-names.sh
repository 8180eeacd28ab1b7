#!/bin/sh
# scikit-learn 1.8.0 and 1.9.1, polars 1.36.1 and 2.1.0, numpy 2.4.6, CPython 3.11
#
# scikit-learn takes polars DataFrames and keeps the names of their columns: an estimator fitted to
# columns a, b refuses b, a with a ValueError. Up to 1.8 it finds the names by the method
# __dataframe__, which polars 2 no longer has; then the frame is taken as an array without names, and
# nothing is said: neither a warning nor an error. A scaler fitted to a, b scales b by the mean and
# deviation of a where the columns come in another order, get_feature_names_out() answers x0, x1,
# and set_output(transform="polars") renames the columns to these. scikit-learn 1.9 finds the names
# by narwhals, and is right with polars 2. So a pipeline that was safe loses its guard by an upgrade
# of polars alone.
#
# Output seen:
#   scikit-learn 1.8.0, polars 1.36.1: names ['a', 'b'], output ['a', 'b'], other order refused
#   scikit-learn 1.8.0, polars 2.1.0: names ['x0', 'x1'], output ['x0', 'x1'], other order [8.0, -1.9]
#   scikit-learn 1.9.1, polars 2.1.0: names ['a', 'b'], output ['a', 'b'], other order refused
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/look.py" <<'PY'
import sys
import warnings

import polars as pl
import sklearn
from sklearn.preprocessing import StandardScaler

warnings.simplefilter("error")
fit = pl.DataFrame({"a": [1.0, 3.0], "b": [10.0, 30.0]})
scaler = StandardScaler().fit(fit)
output = StandardScaler().set_output(transform="polars").fit_transform(fit).columns
try:
    told = scaler.transform(fit.select("b", "a"))[0].tolist()
except ValueError:
    told = "refused"
print(
    f"scikit-learn {sklearn.__version__}, polars {pl.__version__}: names "
    f"{scaler.get_feature_names_out().tolist()}, output {output}, other order {told}"
)
sys.exit(str(told) != sys.argv[1])
PY
for one in "1.8.0 1.36.1|refused" "1.8.0 2.1.0|[8.0, -1.9]" "1.9.1 2.1.0|refused"; do
    versions=${one%%|*}
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q "scikit-learn==${versions% *}" "polars==${versions#* }" numpy==2.4.6
    "$folder/venv/bin/python" "$folder/look.py" "${one#*|}"
done
