"""Records: how the Python side tells compiled code what to do. Arrays of 64-bit slots.

What stands in a slot is an int (addresses among them) or, where said so, a float64. Imports
nothing, so that both sides can read it.
"""

# A call, as workers and launchers read it. The geometry is that of `kernels`; `y` and `norms` are
# 0 where they are not wanted.
(
    X,
    Y,
    NORMS,
    NORM_SIZE,
    N,  # elements of a vector
    INNER,
    INNER_AXES,
    BATCH,
    BATCH_AXES,
    PARTS,  # 2 for complex elements, else 1
    SWAP,
    TILES,  # of the last axis of the batch, for columns, slabs and bundles
    TOGETHER,  # vectors, or sixteens of them, that are better not parted among threads
    TABLE_X,
    TABLE_Y,
    EPS,  # float64
    ZERO_ROOT,  # float64: what stands for the root of a zero vector
    TOTAL,  # elements of all vectors
    # For launchers: the address of the pool, and how many threads may work.
    POOL,
    THREADS,
    # For `split` alone: the address of the worker that sums a part and of the one that scales it,
    # whether squares may leave the range of float64, and a slot of lanes for each whole part of
    # SPLIT elements and one more.
    PART_SUM,
    PART_SCALE,
    RISKY,
    SCRATCH,
    # What `split` tells these workers of the vector in hand.
    VECTOR_X,
    VECTOR_Y,
    FACTOR,  # float64: the power of two by which elements are multiplied before they are squared
    ROOT,  # float64, as UP and DOWN: the divisor, with its powers of two
    UP,
    DOWN,
    PLAIN,
    # For `turn` alone: the address of what x moves by.
    MOVES,
    CALL,  # the length of the record
) = range(33)

# The pool of threads; see `team`. What different threads write lies on cache lines of its own.
TICKET = 0  # generation, helpers still wanted, shares not yet taken; see `team`
DONE = 8  # shares done
(
    BUSY,  # 1 while a launch is under way
    HELPERS,  # threads started
    HELPER,  # the address of what they run
    TEAM,  # the address of the launcher
    # The job: a worker, its vectors, its record, and the shares they are cut into.
    JOB,
    JOB_COUNT,
    JOB_CALL,
    JOB_SHARES,
) = range(16, 24)
ASLEEP = 24  # helpers that wait for a signal
LIMIT = 25  # threads that a caller may use who cannot ask Python
CORES = 26  # that calling threads may use, where a test says so; else 0
MUTEX, CONDITION = 32, 40  # of POSIX threads, which take 40 to 64 bytes
POOL_SIZE = 48

# What XLA's handler reads (see `foreign`), by a symbol of this name: for each pair of kinds, by
# number, its workers and the bytes of its elements; then the address of the pool.
FOREIGN = "l2multi_foreign"
FOREIGN_KINDS = ("float64", "float32", "float16", "bfloat16")
FOREIGN_READ, FOREIGN_WRITE, FOREIGN_ROWS, FOREIGN_BUNDLES, FOREIGN_TURN, FOREIGN_PAIR = range(6)
FOREIGN_POOL = FOREIGN_PAIR * len(FOREIGN_KINDS) ** 2
FOREIGN_SIZE = FOREIGN_POOL + 1

# How this machine likes its memory asked for, by a symbol of this name; see `machine.Habits`.
MACHINE = "l2multi_machine"
ONCE, STREAM, MACHINE_SIZE = range(3)

# Bytes of a Python object before its own fields, of which its class is the last.
HEAD = 16

# What `short` is bound to, for one pair of dtypes: the workers that are linked by now, and more.
WAYS = ("rows", "columns", "slabs", "bundles", "runs", "packed", "part_sum", "part_scale")
(
    ROWS,
    COLUMNS,
    SLABS,
    BUNDLES,
    RUNS,
    PACKED,
    SHORT_PART_SUM,
    SHORT_PART_SCALE,
    SHORT_SPLIT,  # 0 until it and the last two are linked
    TYPE_X,
    TYPE_Y,
    SIZE_X,
    SIZE_Y,
    TYPE_SINGLE,  # NumPy's own, as TYPE_DOUBLE
    TYPE_DOUBLE,
    SHORT_PARTS,
    SHORT_TABLE_X,
    SHORT_TABLE_Y,
    SHORT_RISKY,
    SHORT_THREADS,  # a Python function: how many threads, but for the cores of this one
    SHORT_POOL,
    NONE,
    TRUE,
    FALSE,
    INT,  # a class, as TUPLE and FLOAT
    TUPLE,
    FLOAT,
    SHORT,  # the length of the record
) = range(28)

# Elements of a long vector that are summed as one part, a power of two of blocks; and the most
# parts of a vector for which the short way has room.
SPLIT, SHORT_PARTS_MOST = 2**15, 2**6

# Numbers of a run from which it need not be whole rows of lanes: the rows that lie in two runs, or
# end a vector, are copied, and took runs of 17 to 100 up to 1.6 times the time of the buffer.
LONG_RUN = 2**8

# Groups of sixteen columns that make a tile, and go through together. One line of each
# row at a time is slow to come: 4000x768 float32 took 1.4 times as long (Fortran order) by one.
GROUPS = 4

# Elements from which vectors that are neighbours go one by one, and the levels of the tree over as
# many: more than memory holds of any but the narrowest arrays.
TREE_LEVELS = 26
ROWS_MOST = 2 ** (7 + TREE_LEVELS)

# In place of 4 or 8 bytes of a norm, three numbers of 4 or 8 bytes: the norm, and its inverse as a
# power of two and a rest (0 for a zero vector), neither of which leaves the range.
THREE_SINGLE, THREE_DOUBLE = 12, 24
