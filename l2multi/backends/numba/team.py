"""Launchers: the shares of a batch done by the calling thread and by helpers that wait for work.

Nobody waits for a helper to come. All threads take share after share until none is left, and who
launched waits only for shares that a running helper has taken. A barrier waits for each thread of
a team to be given a core: Numba's parallel loops (GNU OpenMP) took 8 ms for a call of 50 us beside
a busy neighbour. Nor is there a layer that ends the process when two threads launch at a time, or
when a child of fork does, and launching needs neither Numba nor Python, so that it serves calls
from XLA's threads too.

The pool's `TICKET` is one number: the job's generation, the helpers it still wants, and the first
and last of the shares not yet taken. Whoever joins, or takes a share, changes it, and only if it is
still the one it saw. So a share taken belongs to the job that the pool describes, which is not over
before its shares are done. Who launched takes the first, a helper the last: in call after call a
core meets the part of the arrays that is in its caches.

One launch at a time: who comes meanwhile works alone, on its own core.
"""

import signal
import sys
from typing import Any

from numba import types

from l2multi.backends.numba import kernels, records, simd
from l2multi.backends.numba import launch as limits
from l2multi.backends.numba.frontend import device, function
from l2multi.backends.numba.kernels import (
    DOWN,
    INF,
    LEVELS,
    LOWEST,
    UP,
    joined,
    offset,
    push,
    settle,
)  # fmt: skip
from l2multi.backends.numba.simd import (
    I32,
    I64,
    change,
    get,
    get_double,
    get_int,
    greater,
    lesser,
    seen,
    set_int,
    show,
    sum_lanes,
    swap,
)

_INT = types.intp

# first, last, call
WORKER = types.void(_INT, _INT, _INT)
# worker, count, call
TEAM = types.void(_INT, _INT, _INT)
# count, call
LONG = types.void(_INT, _INT)
# pool
HELPER = _INT(_INT)

work, launch, share = map(simd.calling, (WORKER, TEAM, LONG))

# Elements of a share: enough that taking it (0.1 us) does not count, and no more than lets the
# others finish at about the same time.
LEAST, MOST = 2**13, 2**18

# Elements that the cores' own caches may hold: there each core fetches ahead, and takes away, what
# the other has just written next to its own. 1000x128 float32 along columns, into an output, took
# 1.5 times as long in two shares as in eight.
OWN = 2**18

# Looks at the ticket, of some 40 ns each, after which a helper goes to sleep: 0.1 to 0.2 ms, so
# that it is awake when calls follow each other, for waking it takes a caller microseconds.
LOOKS = 2000

# Looks after which it offers its core to whoever waits for one, such as a thread of XLA's.
POLITE = 16

# Bits of the ticket: where its parts begin, and how long they are.
_FIRST, _HELP, _GENERATION = 16, 32, 44
_SHARES, _HELPERS, _GENERATIONS = ((1 << bits) - 1 for bits in (16, 12, 19))

_new_mutex = simd.external("pthread_mutex_init", I32, I64, I64)
_new_condition = simd.external("pthread_cond_init", I32, I64, I64)
_lock = simd.external("pthread_mutex_lock", I32, I64)
_unlock = simd.external("pthread_mutex_unlock", I32, I64)
_wait = simd.external("pthread_cond_wait", I32, I64, I64)
_signal = simd.external("pthread_cond_signal", I32, I64)
_create = simd.external("pthread_create", I32, I64, I64, I64, I64)
_detach = simd.external("pthread_detach", I32, I64)
_yield = simd.external("sched_yield", I32)
_fill = simd.external("sigfillset", I32, I64)
_mask = simd.external("pthread_sigmask", I32, I32, I64, I64)

# Of Linux, where a thread has an affinity, a niceness and a policy of its own, and 0 means itself.
_LINUX = sys.platform.startswith("linux")
_process = simd.external("getpid", I32)  # and so the main thread
_affinity = simd.external("sched_getaffinity", I32, I32, I64, I64)
_set_affinity = simd.external("sched_setaffinity", I32, I32, I64, I64)
_niceness = simd.external("getpriority", I32, I32, I32)
_set_niceness = simd.external("setpriority", I32, I32, I32, I32)
_policy = simd.external("sched_getscheduler", I32, I32)
_WORDS = 16  # of a set of cores

paid = device(limits.paid)


def cores() -> Any:
    """A function: how many cores the calling thread may use; many where that cannot be told."""
    room = simd.room(_WORDS)

    @device
    def run(pool):
        told, allowed, count = get_int(pool, records.CORES), room(), 0
        if told != 0 or not _LINUX:
            return told or _HELPERS
        if _affinity(0, 8 * _WORDS, allowed) != 0:
            return _HELPERS
        for k in range(_WORDS):
            word = get_int(allowed, k)
            while word != 0:
                word &= word - 1
                count += 1
        return count

    return run


def independence() -> tuple[Any, Any]:
    """Two functions by which helpers do not depend on who made a large call first: whether this
    thread may create one, and what a new one does, which inherits all from its creator.

    The main thread stands for the process. Helpers get its affinity, and its niceness if they have
    less; to get rid of more, or of another policy, is a privilege, so such threads create none. An
    affinity that is right already is not set: one that has been set does not grow with a cpuset.
    """
    if not _LINUX:
        return device(lambda: True), device(lambda: None)
    own, of_process = simd.room(_WORDS), simd.room(_WORDS)

    @device
    def may_create():
        process = _process()
        return _niceness(0, 0) <= _niceness(0, process) and _policy(0) == _policy(process)

    @device
    def be_as_main():
        process, mine, right, same = _process(), own(), of_process(), True
        if _affinity(0, 8 * _WORDS, mine) == 0 and _affinity(process, 8 * _WORDS, right) == 0:
            for k in range(_WORDS):
                same = same and get_int(mine, k) == get_int(right, k)
            if not same:
                _set_affinity(0, 8 * _WORDS, right)
        _set_niceness(0, 0, _niceness(0, process))

    return may_create, be_as_main


@device
def enter(
    call, x, y, norms, norm_size, n, parts, table_x, table_y, eps, zero_root, total, pool, threads
):
    """Fill a record for vectors that lie one after the other."""
    set_int(call, records.X, x)
    set_int(call, records.Y, y)
    set_int(call, records.NORMS, norms)
    set_int(call, records.NORM_SIZE, norm_size)
    set_int(call, records.N, n)
    set_int(call, records.BATCH_AXES, 0)
    set_int(call, records.PARTS, parts)
    set_int(call, records.TOGETHER, 1)
    set_int(call, records.TABLE_X, table_x)
    set_int(call, records.TABLE_Y, table_y)
    simd.put_double(call, records.EPS, eps)
    simd.put_double(call, records.ZERO_ROOT, zero_root)
    set_int(call, records.TOTAL, total)
    set_int(call, records.POOL, pool)
    set_int(call, records.THREADS, threads)


@device
def left(ticket):
    """Shares not yet taken."""
    return (ticket & _SHARES) - (ticket >> _FIRST & _SHARES)


@device
def wanted(ticket):
    """Whether there is work for another helper."""
    return left(ticket) > 0 and ticket >> _HELP & _HELPERS != 0


@device
def take(pool, generation, first):
    """Do shares of the job of this generation until none is left, from the first or the last."""
    done = 0
    while pool != 0:  # until there is a break
        ticket = seen(pool, records.TICKET)
        if ticket >> _GENERATION != generation or left(ticket) <= 0:
            break
        if swap(pool, records.TICKET, ticket, ticket + (1 << _FIRST) if first else ticket - 1):
            share = ticket >> _FIRST & _SHARES if first else (ticket & _SHARES) - 1
            shares, count = get_int(pool, records.JOB_SHARES), get_int(pool, records.JOB_COUNT)
            work(
                get_int(pool, records.JOB),
                share * count // shares, (share + 1) * count // shares,
                get_int(pool, records.JOB_CALL),
            )  # fmt: skip
            done += 1
    if done:
        change(pool, records.DONE, done)


def helper() -> Any:
    """What a helper runs, for ever."""
    blocked = simd.room(32)  # more than any sigset_t
    block = int(getattr(signal, "SIG_BLOCK", 0))
    _, be_as_main = independence()

    @function(HELPER)
    def run(pool):
        everything = blocked()
        _fill(everything)
        _mask(block, everything, 0)  # signals are for the threads of the program
        be_as_main()
        mutex, condition = pool + 8 * records.MUTEX, pool + 8 * records.CONDITION
        looks = 0
        while pool != 0:  # for ever
            ticket = seen(pool, records.TICKET)
            if wanted(ticket):
                if swap(pool, records.TICKET, ticket, ticket - (1 << _HELP)):
                    take(pool, ticket >> _GENERATION, False)
                looks = 0
                continue
            simd.pause()
            looks += 1
            if looks % POLITE == 0:
                _yield()
            if looks > LOOKS:
                _lock(mutex)
                change(pool, records.ASLEEP, 1)
                if not wanted(seen(pool, records.TICKET)):
                    _wait(condition, mutex)  # if that fails, look on: the thread is known to others
                change(pool, records.ASLEEP, -1)
                _unlock(mutex)
                looks = 0
        return 0

    return run


def team() -> Any:
    """Shares of the batch for this thread and for helpers."""
    identity = simd.room(1)
    may_create, _ = independence()

    @device
    def hire(pool, most):
        """Have as many helpers, if the system allows; how many there are for this job."""
        there = get_int(pool, records.HELPERS)
        if there == 0:
            _new_mutex(pool + 8 * records.MUTEX, 0)
            _new_condition(pool + 8 * records.CONDITION, 0)
        if there < most and may_create():
            while there < most:
                thread = identity()
                if _create(thread, 0, get_int(pool, records.HELPER), pool) != 0:
                    break
                _detach(get_int(thread, 0))
                there += 1
                set_int(pool, records.HELPERS, there)
        return lesser(there, most)

    @function(TEAM)
    def launcher(worker, count, call):
        pool, threads = get_int(call, records.POOL), get_int(call, records.THREADS)
        total, together = get_int(call, records.TOTAL), get_int(call, records.TOGETHER)
        if threads < 2 or count < 2 or not swap(pool, records.BUSY, 0, 1):
            work(worker, 0, count, call)
            return
        size = lesser(greater(total // (16 * threads), LEAST), MOST)
        shares = lesser(lesser(greater(total // size, 2 * threads), count), _SHARES)
        if count >= threads * together * (1 if total >= OWN else 2):
            shares = lesser(shares, count // together)
        helpers = hire(pool, lesser(lesser(threads, shares), _HELPERS) - 1)
        set_int(pool, records.JOB, worker)
        set_int(pool, records.JOB_COUNT, count)
        set_int(pool, records.JOB_CALL, call)
        set_int(pool, records.JOB_SHARES, shares)
        show(pool, records.DONE, 0)
        generation = (seen(pool, records.TICKET) >> _GENERATION) + 1 & _GENERATIONS
        show(pool, records.TICKET, generation << _GENERATION | helpers << _HELP | shares)
        # A helper that is not yet counted as asleep will look at the ticket once more; one that is,
        # and has not let go of the mutex, is about to wait. Those that are awake need no signal.
        asleep = seen(pool, records.ASLEEP) - (get_int(pool, records.HELPERS) - helpers)
        if asleep > 0:
            _lock(pool + 8 * records.MUTEX)
            _unlock(pool + 8 * records.MUTEX)
            while asleep > 0 and wanted(seen(pool, records.TICKET)):
                _signal(pool + 8 * records.CONDITION)
                asleep -= 1
        take(pool, generation, True)
        looks = 0
        while seen(pool, records.DONE) != shares:
            simd.pause()
            looks += 1
            if looks > LOOKS:
                _yield()
        show(pool, records.BUSY, 0)

    return launcher


def split() -> Any:
    """Long contiguous vectors, one after another, the threads sharing each."""
    reserve = simd.stack(LEVELS)

    @device
    def join(scratch, whole):
        """The tree over parts, as `kernels.row_sum` has it over blocks."""
        stack = reserve()
        for part in range(whole):
            push(stack, 0, 1, part, get(scratch, part))
        return sum_lanes(joined(stack, 0, 1, whole, get(scratch, whole)))

    @function(LONG)
    def launcher(count, call):
        team = get_int(get_int(call, records.POOL), records.TEAM)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        scratch = get_int(call, records.SCRATCH)
        whole = get_int(call, records.N) * get_int(call, records.PARTS) // records.SPLIT
        parts = whole + 1
        modes = simd.exact_modes()  # as workers do, for the sums of parts are added here
        for i in range(count):
            x = get_int(call, records.X) + offset(batch, batch_axes, kernels.BATCH, 1, i)
            set_int(call, records.VECTOR_X, x)
            up, down, total = 1.0, 1.0, 0.0
            again = True
            while again:
                simd.put_double(call, records.FACTOR, up * down)
                launch(team, get_int(call, records.PART_SUM), parts, call)
                total = join(scratch, whole)
                again = False
                if get_int(call, records.RISKY) and up == 1.0 and down == 1.0:
                    if total < LOWEST:
                        up, again = UP, True
                    elif total == INF:
                        down, again = DOWN, True
            first = simd.root(total)
            length, root, up_, down_, plain = settle(
                first, up, down, get_double(call, records.EPS), get_double(call, records.ZERO_ROOT)
            )
            if norms:
                at = norms + offset(batch, batch_axes, kernels.BATCH, 3, i)
                kernels.put_norm(at, norm_size, length, first, up, down)
            if get_int(call, records.Y):
                y = get_int(call, records.Y) + offset(batch, batch_axes, kernels.BATCH, 2, i)
                set_int(call, records.VECTOR_Y, y)
                simd.put_double(call, records.ROOT, root)
                simd.put_double(call, records.UP, up_)
                simd.put_double(call, records.DOWN, down_)
                set_int(call, records.PLAIN, 1 if plain else 0)
                launch(team, get_int(call, records.PART_SCALE), parts, call)
        simd.restore_modes(modes)

    return launcher
