"""The kernels: for each layout in memory a worker, in a file of its own.

A worker does the vectors `first` to `last` of a call, as a call descriptor tells; each is compiled
once for a pair of kinds. They follow `l2multi._summation`, and know nothing of Python, and of
threads only in which order they take parts of a long vector (`common.backwards`).
In the drawings `a` is one vector of many, and memory goes from left to right:

rows            aaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbb ...    neighbouring elements

short_rows      aaa bbb ccc ddd eee ...             at most sixteen elements: sixteen vectors go
                                                    through together, a lane for each

columns         abcdefghijklmnopqrstuvwxyz...       neighbouring vectors are neighbours: up to 64
                abcdefghijklmnopqrstuvwxyz...       go through together, so that each cache line
                abcdefghijklmnopqrstuvwxyz...       is read once

narrow_columns  abc abc abc abc abc abc ...         at most sixteen columns, nothing between a row
                                                    and the next: read as if it were one long row

segmented       aaaaaaaa bbbbbbbb cccccccc          segments of whole sixteens, or long ones:
                aaaaaaaa bbbbbbbb cccccccc          read where they are

gathered        a..b.. a..b.. a..b.. a..b..         anything else, and the other byte order: copied
                                                    to a small buffer and back

ragged          aaaaaa bbb cccccccccccccc d ...     as rows, each of its own length

`long_rows` shares each of a few long rows among the threads; `jvp` is the derivative of rows, and
by parts of each of a few long ones; `ascending` looks at indices of ragged vectors.
"""

from l2multi.backends.numba.kernels.ascending import ascending
from l2multi.backends.numba.kernels.columns import columns
from l2multi.backends.numba.kernels.gathered import gathered
from l2multi.backends.numba.kernels.jvp import jvp, jvp_part_scale, jvp_part_sum
from l2multi.backends.numba.kernels.long_rows import part_scale, part_sum
from l2multi.backends.numba.kernels.narrow_columns import narrow_columns
from l2multi.backends.numba.kernels.ragged import ragged
from l2multi.backends.numba.kernels.rows import rows
from l2multi.backends.numba.kernels.segmented import segmented
from l2multi.backends.numba.kernels.short_rows import short_rows

WORKERS = {
    "rows": rows,
    "columns": columns,
    "narrow_columns": narrow_columns,
    "short_rows": short_rows,
    "segmented": segmented,
    "gathered": gathered,
    "ragged": ragged,
    "part_sum": part_sum,
    "part_scale": part_scale,
    "jvp": jvp,
    "jvp_part_sum": jvp_part_sum,
    "jvp_part_scale": jvp_part_scale,
    "ascending": ascending,
}
