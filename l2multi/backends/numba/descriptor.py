"""How the Python side tells compiled code what to do: descriptors, arrays of 64-bit slots.

What stands in a slot is an int (addresses among them) or, where a comment says so, a float64. This
file has numbers of slots only, and imports nothing, so that both sides can read it.
"""

# The call descriptor, which workers read. `plan` says what stands in the tables; `Y` and `NORMS`
# are 0 where no unit vectors or no norms are wanted.
(
    X,
    Y,
    NORMS,
    NORM_SIZE,  # bytes that a norm takes: 4 or 8, THREE_SINGLE or THREE_DOUBLE, or JUDGED
    N,  # elements of a vector
    INNER,  # the address of a table, with so many rows
    INNER_AXES,
    BATCH,  # for ragged, where vectors begin and end
    BATCH_AXES,
    PARTS,  # 2 for complex elements, else 1
    SWAP,  # whether the bytes of an element of x are in the other order
    TILES,  # of the last axis of the batch, for columns, narrow_columns and short_rows
    TOGETHER,  # vectors, or sixteens of them, that had better be in one chunk
    TABLE_X,  # the addresses of the tables that decode x and encode y
    TABLE_Y,
    EPS,  # float64
    ZERO_ROOT,  # float64: what stands for the root of a zero vector
    TOTAL,  # elements of all vectors
    POOL,  # the address of the thread pool
    THREADS,  # that may work
    # For `long_rows` alone: the address of the worker that sums a part and of the one that scales
    # it, whether sums may need rescaling, and a slot of lanes for each whole part and one more.
    PART_SUM,
    PART_SCALE,
    RESCALING,
    SCRATCH,
    # What `long_rows` tells these workers of the vector in hand.
    VECTOR_X,
    VECTOR_Y,
    FACTOR,  # float64: the power of two by which elements are multiplied before they are squared
    ROOT,  # float64, as SCALE_UP and SCALE_DOWN: the divisor, with its powers of two
    SCALE_UP,
    SCALE_DOWN,
    PLAIN,
    # For derivatives alone: the addresses of the tangent of x and of the worker for rows, and what
    # to multiply x by, float64, where FACTOR is that of the tangent. SCRATCH has two slots of lanes
    # for each part.
    TANGENT,
    WORKER,
    BACK,
    # Where norms are judged: 1 if one was 0, and if one was NaN or inf.
    MET_ZERO,
    MET_NONFINITE,
    CALL_SIZE,  # the number of these slots
) = range(37)

# In place of 4 or 8 bytes of a norm, three numbers of 4 or 8 bytes: the norm, and its inverse as a
# power of two and a rest (0 for a zero vector), neither of which leaves the range.
THREE_SINGLE, THREE_DOUBLE = 12, 24

# Norms are not written. All have one address, of the slot MET_ZERO, where what they are is told.
JUDGED = 0

# The thread pool; see `thread_pool`. What different threads write lies on cache lines of its own.
TICKET = 0  # generation, helpers still wanted, chunks not yet taken
DONE = 8  # chunks done
(
    BUSY,  # 1 while a call is under way
    HELPERS,  # threads started
    HELPER,  # the address of what they run
    PARALLEL_FOR,  # the address of what gives them work
    # The work: a worker, its vectors, its descriptor, and the chunks they are cut into.
    JOB,
    JOB_COUNT,
    JOB_CALL,
    JOB_CHUNKS,
) = range(16, 24)
ASLEEP = 24  # helpers that wait for a signal
LIMIT = 25  # threads that a call may use who cannot ask Python
CORES = 26  # that calling threads may use, where a test says so; else 0
WAKER = 27  # the core of the last caller
ALONE = 28  # when a small call last found all helpers asleep, in ns
EAGER = 29  # whether small calls wake helpers all the same, where a test says so
MUTEX, CONDITION = 32, 40  # of POSIX threads, which take 40 to 64 bytes
POOL_SIZE = 48

# What XLA's handler reads (see `xla_ffi`), by a symbol of this name: for each pair of kinds, by
# number, its workers and the bytes of its elements; then the addresses of the pool and of what
# gives derivatives to the threads.
XLA_TABLE = "l2multi_xla"
XLA_KINDS = ("float64", "float32", "float16", "bfloat16")
(
    XLA_READ,
    XLA_WRITE,
    XLA_ROWS,
    XLA_SHORT_ROWS,
    XLA_JVP,
    XLA_JVP_PART_SUM,
    XLA_JVP_PART_SCALE,
    XLA_PAIR,
) = range(8)
XLA_POOL = XLA_PAIR * len(XLA_KINDS) ** 2
XLA_JVP_ROWS, XLA_SIZE = XLA_POOL + 1, XLA_POOL + 2

# What suits this machine's memory, by a symbol of this name; see `machine.Habits`.
MACHINE = "l2multi_machine"
ONCE, ONCE_FROM, STREAM, MACHINE_SIZE = range(4)

# The pair descriptor, which `fast_call` reads: for one pair of dtypes, the addresses of the workers
# that are linked by now (0 for the rest), and what does not change from call to call.
LAYOUTS = ("rows", "columns", "narrow_columns", "short_rows", "segmented", "gathered")
WORKERS = (*LAYOUTS, "part_sum", "part_scale")
DERIVATIVES = ("jvp", "jvp_part_sum", "jvp_part_scale")  # which the fast call does not know
(
    ROWS,
    COLUMNS,
    NARROW_COLUMNS,
    SHORT_ROWS,
    SEGMENTED,
    GATHERED,
    PAIR_PART_SUM,
    PAIR_PART_SCALE,
    PAIR_LONG_ROWS,  # 0 until it and the last two are linked
    PAIR_JVP,  # as the next three, for derivatives
    PAIR_JVP_PART_SUM,
    PAIR_JVP_PART_SCALE,
    PAIR_JVP_ROWS,
    TYPE_X,
    TYPE_Y,
    SIZE_X,
    SIZE_Y,
    TYPE_SINGLE,  # NumPy's own, as TYPE_DOUBLE
    TYPE_DOUBLE,
    PAIR_PARTS,
    PAIR_TABLE_X,
    PAIR_TABLE_Y,
    PAIR_RESCALING,
    PAIR_POOL,
    NONE,
    TRUE,
    FALSE,
    INT,  # a class, as TUPLE and FLOAT
    TUPLE,
    FLOAT,
    PAIR_SIZE,  # the number of these slots
) = range(31)
