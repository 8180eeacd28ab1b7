"""What object code is for: a level of CPU features, on this machine or another.

Code is made for a level and not for one model of a CPU, so that what a wheel ships, what a user's
machine compiles and what its cache holds are the same. Imports llvmlite when it is asked.
"""

import functools
import os
import platform
import sys
from typing import Any, NamedTuple

ENVIRONMENT = "L2MULTI_CPU_LEVEL"

NATIVE = "native"  # this model of CPU, where it has no level; nothing ships for it

_V2 = ("cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_LINUX = "linux-gnu"


class Level(NamedTuple):
    """A level of CPU features, by LLVM's names."""

    name: str
    triple: str  # empty: this process's
    cpu: str
    features: tuple[str, ...]
    tuning: tuple[str, ...] = ()
    like: str = "generic"  # the CPU for which instructions are ordered and loops unrolled

    def has(self, feature: str) -> bool:
        """Whether code may use this feature."""
        # 64-bit Arm has the fused operation without a name for it.
        return feature in self.features or (feature == "fma" and "neon" in self.features)

    def target_machine(self) -> Any:
        """What makes machine code for this level."""
        import llvmlite.binding as llvm

        if self.triple:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        else:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
        triple = self.triple or llvm.get_process_triple()
        return llvm.Target.from_triple(triple).create_target_machine(
            cpu=self.cpu,
            features=",".join((*(f"+{f}" for f in self.features), *self.tuning)),
            opt=3,
            # What a process links at run time lies anywhere in memory, but on Arm llvmlite keeps
            # together what it links: constants are near, and a twelfth of the code goes.
            reloc="static" if triple.startswith("x86_64") else "default",
            codemodel="small" if self.triple.startswith("aarch64") else "jitdefault",
            jit=True,
        )


# LLVM orders instructions for the levels themselves as for Intel's CPUs of their time. Against
# kernels made for the CPU itself (Zen 5), narrow columns then took 1.15 of the time and rows of
# float16 1.04; ordered as for Zen 4, ten kernels take 0.98 to 1.00. Intel's are not measured.

# LLVM halves the registers of the last x86 level unless told not to: its first CPUs slowed down.
_WIDE = ("-prefer-256-bit",)

# From the lowest to the highest of each architecture.
LEVELS = {
    level.name: level
    for level in (
        Level("x86-64-v2", f"x86_64-unknown-{_LINUX}", "x86-64-v2", _V2),
        Level("x86-64-v3", f"x86_64-unknown-{_LINUX}", "x86-64-v3", _V3, (), "znver3"),
        Level("x86-64-v4", f"x86_64-unknown-{_LINUX}", "x86-64-v4", _V4, _WIDE, "znver4"),
        Level("aarch64", f"aarch64-unknown-{_LINUX}", "generic", ("fp-armv8", "neon")),
    )
}


def _host() -> dict[str, bool]:
    import llvmlite.binding as llvm

    return dict(llvm.get_host_cpu_features())


def levels() -> list[Level]:
    """The levels that this CPU can run, from the lowest to the highest."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower())
    machine = machine or platform.machine().lower()
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        return []
    of_machine = [one for one in LEVELS.values() if one.triple.startswith(machine)]
    if machine == "aarch64":  # its baseline; not each system tells of features
        return of_machine
    host = _host() if of_machine else {}
    return [one for one in of_machine if all(host.get(f) for f in one.features)]


@functools.cache
def here() -> Level:
    """The level of what is compiled and linked in this process: the highest that its CPU can run,
    or what ``L2MULTI_CPU_LEVEL`` says."""
    can = {one.name: one for one in levels()}
    named = os.environ.get(ENVIRONMENT)
    if named and named not in can:
        raise ValueError(f"{ENVIRONMENT}={named}: this machine can run {', '.join(can) or 'none'}")
    if can:
        found = can[named] if named else list(can.values())[-1]
        system = platform.system().lower()
        if system == "linux":
            return found
        return found._replace(name=f"{found.name}-{system}", triple="")
    import llvmlite.binding as llvm

    known = tuple(sorted(feature for feature, there in _host().items() if there))
    return Level(NATIVE, "", llvm.get_host_cpu_name(), known)


def trouble() -> str | None:
    """What is wrong with ``L2MULTI_CPU_LEVEL``; looks at the CPU only where that is set."""
    if os.environ.get(ENVIRONMENT):
        try:
            here()
        except ValueError as error:
            return str(error)
    return None


# Load-once cache: the level of `aim`.
_aimed: list[Level] = []


def aim(name: str) -> None:
    """Have this process compile for a level that it need not be able to run."""
    _aimed.append(LEVELS[name] if name in LEVELS else here())


def aimed() -> Level:
    """The level that this process compiles for."""
    return _aimed[0] if _aimed else here()


class Habits(NamedTuple):
    """What suits the memory of a model of CPUs."""

    near: int  # how near prefetches bring a line: 1 into the nearest cache, 0 the next
    once: int  # how many bytes ahead to prefetch x where it is read once, in the order it lies in
    once_from: int  # bytes of x from which it is so
    stream: int  # bytes of y from which it is streamed


# Measured, as times of one choice over the other:
#   near     Zen 5   100000x768 float32 into a warm output takes 1.07 of the fastest copy's time by
#                    the nearest cache, 1.17 by the next
#            Zen 4   0.93 by the next cache; on a Xeon non-temporal stores need the few pending
#                    lines that the nearest cache has
#   once     Xeon    norms of 100000x768 float32: 0.76 with the prefetch. Zen 3: 1x4000000 float32
#                    0.7 to 0.9, 20000x768 float64 1.16
#            Zen 4   1.5: it looks ahead itself. Zen 5: rows of 128 to 1000000, float16 and float32
#                    0.8 to 1.0, float64 0.5 to 0.7; half as far ahead is up to 0.2 slower. Under
#                    16 MB, in its last cache, 1.0 to 1.1
#   stream   Zen 4   5208x768 float32, 16 MB and as many to write: 1.7 streamed. Zen 3: 0.8
#            Xeon    of a last cache of 480 MB: 8 to 32 MB 1.04 to 1.2 streamed, and 1.2 to 1.4 with
#                    what then reads y; 64 MB 0.5 to 0.8, 128 MB 0.4 to 0.7
_HABITS = {"znver4": Habits(0, 0, 0, 2**24), "znver5": Habits(1, 2**13, 2**24, 2**23)}
_USUAL = Habits(0, 2**12, 0, 2**23)


def habits() -> Habits:
    """Those of this machine."""
    import llvmlite.binding as llvm

    usual = _HABITS.get(llvm.get_host_cpu_name(), _USUAL)
    # Others use the last cache as well, or other virtual machines do.
    return usual._replace(stream=max(usual.stream, min(_last_cache() // 16, 2**25)))


def _last_cache() -> int:
    """The bytes of the last cache, as far as Linux tells."""
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index3/size") as file:
            return 2**10 * int(file.read().removesuffix("K\n"))
    except (OSError, ValueError):
        return 0
