"""kernels"""

from l2multi.backends.numba.kernels.columns import columns
from l2multi.backends.numba.kernels.gathered import gathered
from l2multi.backends.numba.kernels.jvp import jvp
from l2multi.backends.numba.kernels.long_rows import part_scale, part_sum
from l2multi.backends.numba.kernels.narrow_columns import narrow_columns
from l2multi.backends.numba.kernels.rows import rows
from l2multi.backends.numba.kernels.segmented import segmented
from l2multi.backends.numba.kernels.short_rows import short_rows

# By name.
WORKERS = {
    "rows": rows,
    "columns": columns,
    "narrow_columns": narrow_columns,
    "short_rows": short_rows,
    "segmented": segmented,
    "gathered": gathered,
    "part_sum": part_sum,
    "part_scale": part_scale,
    "jvp": jvp,
}
