"""The thread pool: chunks of a batch, done by the calling thread and by helpers that wait for work.

Nobody waits for a helper to come. All threads take chunk after chunk until none is left, and the
caller waits only for chunks that a running helper has taken. (A barrier waits until each thread has
been given a core: Numba's parallel loops, by GNU OpenMP, took 8 ms for a call of 50 us beside a
busy neighbour.) No layer ends the process when two threads call at a time, or a child of fork does,
and neither Numba nor Python is needed, so that calls from XLA's threads are served too.

The pool's `TICKET` is one number: the job's generation, the helpers it still wants, and the first
and last of the chunks not yet taken. Whoever joins, or takes a chunk, changes it, and only if it is
still what it was. So a chunk taken belongs to the job that the pool describes, which is not over
before its chunks are done. The caller takes chunks from the front, helpers from the back: in call
after call a core meets the part of the arrays that is in its caches.

The pool does one call at a time: a caller that finds it busy works alone, on its own core.
"""

import signal
import sys
import time
from typing import Any

from l2multi.backends.numba import cabi, descriptor, memory
from l2multi.backends.numba import threads as limits
from l2multi.backends.numba.cabi import ON_ADDRESS, PARALLEL_FOR, call_worker
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.lanes import I32, I64, greater, lesser
from l2multi.backends.numba.memory import (
    atomic_add,
    atomic_load,
    atomic_store,
    compare_exchange,
    get_int,
    set_int,
)

# Elements of a chunk: enough that taking it (0.1 us) does not count, and no more than lets the
# others finish at about the same time.
CHUNK_LEAST, CHUNK_MOST = 2**13, 2**18

# How many ns a helper looks at the ticket before it goes to sleep, so that it is awake when calls
# follow each other with some Python between them, such as 0.1 ms of torch's autograd. (Not so many
# looks: 8192 take 60 us here and 0.2 ms there, for CPUs differ in how long they pause.)
AWAKE = 200_000

# Elements from which a call wakes helpers that are all asleep. That takes the caller 2 to 9 us, 20
# to 40 in a virtual machine, and they come later still: 2**16 float32 took twice as long as by one
# thread, 2**17 1.2 to 1.6 times, 2**18 0.7 to 0.8 (Intel Xeon, two cores of a virtual machine). A
# smaller call wakes them if it begins so soon after another that found them asleep, and took up to
# 0.1 ms alone, that they would have been awake.
WAKE_FROM, RHYTHM = 3 * 2**16, AWAKE + 100_000

# Looks after which it offers its core to whoever waits for one, such as a thread of XLA's, and
# looks at the clock and where it is; and after which a caller does, whose helper may be the one
# that waits.
POLITE, PATIENT = 16, 2000

# How many ns a helper stays where it moved to, though callers take turns on all cores.
STAY = 1_000_000

# Bits of the ticket: where its parts begin, and how long they are.
_FIRST, _HELP, _GENERATION = 16, 32, 44
_CHUNKS, _HELPERS, _GENERATIONS = ((1 << bits) - 1 for bits in (16, 12, 19))

_new_mutex = cabi.external("pthread_mutex_init", I32, I64, I64)
_new_condition = cabi.external("pthread_cond_init", I32, I64, I64)
_lock = cabi.external("pthread_mutex_lock", I32, I64)
_unlock = cabi.external("pthread_mutex_unlock", I32, I64)
_wait = cabi.external("pthread_cond_wait", I32, I64, I64)
_signal = cabi.external("pthread_cond_signal", I32, I64)
_create = cabi.external("pthread_create", I32, I64, I64, I64, I64)
_detach = cabi.external("pthread_detach", I32, I64)
_yield = cabi.external("sched_yield", I32)
_clock = cabi.external("clock_gettime", I32, I32, I64)
_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)
_fill = cabi.external("sigfillset", I32, I64)
_mask = cabi.external("pthread_sigmask", I32, I32, I64, I64)

# Of Linux, where a thread has an affinity, a niceness and a policy of its own, and 0 means itself.
_LINUX = sys.platform.startswith("linux")
_process = cabi.external("getpid", I32)  # and so the main thread
_affinity = cabi.external("sched_getaffinity", I32, I32, I64, I64)
_set_affinity = cabi.external("sched_setaffinity", I32, I32, I64, I64)
_core = cabi.external("sched_getcpu", I32)
_niceness = cabi.external("getpriority", I32, I32, I32)
_set_niceness = cabi.external("setpriority", I32, I32, I32, I32)
_policy = cabi.external("sched_getscheduler", I32, I32)
_WORDS = 16  # of a set of cores

paid = device(limits.paid)


def cores() -> Any:
    """A function: how many cores the calling thread may use; many where that cannot be told."""
    room = memory.room(_WORDS)

    @device
    def run(pool):
        told, allowed, count = get_int(pool, descriptor.CORES), room(), 0
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
    own, of_process = memory.room(_WORDS), memory.room(_WORDS)

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
def nanoseconds(room):
    """The time, read by way of two slots."""
    _clock(_MONOTONIC, room)
    return get_int(room, 0) * 1_000_000_000 + get_int(room, 1)


def stepping_aside() -> tuple[Any, Any]:
    """Two functions by which a helper that finds itself on the core of the caller leaves it for
    another of the process's: where the caller tells its core, and where the helper leaves.

    Linux may wake a thread on the core of its waker while others idle, and move it only after some
    milliseconds: 17 calls after a pause of 50 ms took as long as by one thread. One that does not
    sleep may be moved there too, when other threads come, such as torch's, and stays: calls then
    took two to three times as long, for as long as they went on (Linux 6.18 in a virtual machine
    of two cores).
    """
    if not _LINUX:
        return device(lambda pool: None), device(lambda pool, now, moved: moved)
    of_process = memory.room(_WORDS)

    @device
    def tell(pool):
        core = 0 + _core()
        if atomic_load(pool, descriptor.WAKER) != core:
            atomic_store(pool, descriptor.WAKER, core)

    @device
    def leave(pool, now, moved):
        core, left, any_left = 0 + _core(), of_process(), 0
        if core != atomic_load(pool, descriptor.WAKER) or not 0 <= core < 64 * _WORDS:
            return moved
        at = nanoseconds(now)
        if at - moved < STAY:
            return moved
        if _affinity(_process(), 8 * _WORDS, left) == 0:
            word = core // 64
            set_int(left, word, get_int(left, word) & ~(1 << core % 64))
            for k in range(_WORDS):
                any_left |= get_int(left, k)
            if any_left:
                _set_affinity(0, 8 * _WORDS, left)
        return at

    return tell, leave


@device
def chunks_left(ticket):
    """Chunks not yet taken."""
    return (ticket & _CHUNKS) - (ticket >> _FIRST & _CHUNKS)


@device
def helper_wanted(ticket):
    """Whether there is work for another helper."""
    return chunks_left(ticket) > 0 and ticket >> _HELP & _HELPERS != 0


@device
def take_chunks(pool, generation, first):
    """Do chunks of the job of this generation until none is left, from the front or the back."""
    done = 0
    while pool != 0:  # until there is a break
        ticket = atomic_load(pool, descriptor.TICKET)
        if ticket >> _GENERATION != generation or chunks_left(ticket) <= 0:
            break
        taken = ticket + (1 << _FIRST) if first else ticket - 1
        if compare_exchange(pool, descriptor.TICKET, ticket, taken):
            chunk = ticket >> _FIRST & _CHUNKS if first else (ticket & _CHUNKS) - 1
            chunks = get_int(pool, descriptor.JOB_CHUNKS)
            count = get_int(pool, descriptor.JOB_COUNT)
            call_worker(
                get_int(pool, descriptor.JOB),
                chunk * count // chunks, (chunk + 1) * count // chunks,
                get_int(pool, descriptor.JOB_CALL),
            )  # fmt: skip
            done += 1
    if done:
        atomic_add(pool, descriptor.DONE, done)


def helper() -> Any:
    """What a helper runs, for ever."""
    blocked = memory.room(32)  # more than any sigset_t
    block, moment = int(getattr(signal, "SIG_BLOCK", 0)), memory.room(2)
    _, be_as_main = independence()
    _, leave = stepping_aside()

    @function(ON_ADDRESS)
    def run(pool):
        everything, now = blocked(), moment()
        _fill(everything)
        _mask(block, everything, 0)  # signals are for the threads of the program
        be_as_main()
        mutex, condition = pool + 8 * descriptor.MUTEX, pool + 8 * descriptor.CONDITION
        looks = since = moved = 0
        while pool != 0:  # for ever
            ticket = atomic_load(pool, descriptor.TICKET)
            if helper_wanted(ticket):
                moved = leave(pool, now, moved)
                if compare_exchange(pool, descriptor.TICKET, ticket, ticket - (1 << _HELP)):
                    take_chunks(pool, ticket >> _GENERATION, False)
                looks = 0
                continue
            cabi.pause()
            looks += 1
            if looks % POLITE != 0:
                continue
            moved = leave(pool, now, moved)
            _yield()
            at = nanoseconds(now)
            if looks == POLITE:
                since = at
            elif at - since > AWAKE:
                _lock(mutex)
                atomic_add(pool, descriptor.ASLEEP, 1)
                if not helper_wanted(atomic_load(pool, descriptor.TICKET)):
                    _wait(condition, mutex)  # if that fails, look on: the thread is known to others
                atomic_add(pool, descriptor.ASLEEP, -1)
                _unlock(mutex)
                looks = 0
        return 0

    return run


def starting_helpers() -> Any:
    """A function that has as many helpers, if the system allows; how many there are for a job."""
    identity = memory.room(1)
    may_create, _ = independence()

    @device
    def start_helpers(pool, most):
        there = get_int(pool, descriptor.HELPERS)
        if there == 0:
            _new_mutex(pool + 8 * descriptor.MUTEX, 0)
            _new_condition(pool + 8 * descriptor.CONDITION, 0)
        if there < most and may_create():
            while there < most:
                thread = identity()
                if _create(thread, 0, get_int(pool, descriptor.HELPER), pool) != 0:
                    break
                _detach(get_int(thread, 0))
                there += 1
                set_int(pool, descriptor.HELPERS, there)
        return lesser(there, most)

    return start_helpers


def pays_to_wake() -> Any:
    """A function: whether a call of so many elements is better off with helpers, who may be asleep
    or not there yet."""
    if sys.platform == "win32":  # which has no such clock, and no pool
        return device(lambda pool, total: True)
    moment = memory.room(2)

    @device
    def run(pool, total):
        if (
            total >= WAKE_FROM
            or atomic_load(pool, descriptor.ASLEEP) < get_int(pool, descriptor.HELPERS)
            or get_int(pool, descriptor.EAGER)
        ):
            return True
        at = nanoseconds(moment())
        last = atomic_load(pool, descriptor.ALONE)
        atomic_store(pool, descriptor.ALONE, at)
        return at - last < RHYTHM

    return run


def parallel_for() -> Any:
    """What cuts a batch into chunks, for the calling thread and helpers."""
    start_helpers = starting_helpers()
    tell, _ = stepping_aside()
    pays = pays_to_wake()

    @function(PARALLEL_FOR)
    def run(worker, count, call):
        pool, threads = get_int(call, descriptor.POOL), get_int(call, descriptor.THREADS)
        total, together = get_int(call, descriptor.TOTAL), get_int(call, descriptor.TOGETHER)
        size = lesser(greater(total // (16 * threads), CHUNK_LEAST), CHUNK_MOST)
        chunks = lesser(lesser(greater(total // size, 2 * threads), count // together), _CHUNKS)
        if (
            threads < 2
            or chunks < 2
            or not pays(pool, total)
            or not compare_exchange(pool, descriptor.BUSY, 0, 1)
        ):
            call_worker(worker, 0, count, call)
            return
        if threads < chunks < 4 * threads:
            chunks -= chunks % threads  # for each thread as many
        tell(pool)  # before there are helpers that look
        helpers = start_helpers(pool, lesser(lesser(threads, chunks), _HELPERS) - 1)
        set_int(pool, descriptor.JOB, worker)
        set_int(pool, descriptor.JOB_COUNT, count)
        set_int(pool, descriptor.JOB_CALL, call)
        set_int(pool, descriptor.JOB_CHUNKS, chunks)
        atomic_store(pool, descriptor.DONE, 0)
        generation = (atomic_load(pool, descriptor.TICKET) >> _GENERATION) + 1 & _GENERATIONS
        ticket = generation << _GENERATION | helpers << _HELP | chunks
        atomic_store(pool, descriptor.TICKET, ticket)
        # A helper that is not yet counted as asleep will look at the ticket once more; one that is,
        # and still holds the mutex, is about to wait. Those that are awake need no signal.
        idle = get_int(pool, descriptor.HELPERS) - helpers
        asleep = atomic_load(pool, descriptor.ASLEEP) - idle
        if asleep > 0:
            _lock(pool + 8 * descriptor.MUTEX)
            _unlock(pool + 8 * descriptor.MUTEX)
            while asleep > 0 and helper_wanted(atomic_load(pool, descriptor.TICKET)):
                _signal(pool + 8 * descriptor.CONDITION)
                asleep -= 1
        take_chunks(pool, generation, True)
        looks = 0
        while atomic_load(pool, descriptor.DONE) != chunks:
            cabi.pause()
            looks += 1
            if looks > PATIENT:
                _yield()
        atomic_store(pool, descriptor.BUSY, 0)

    return run
