"""How many CPUs the cgroups of this process may keep busy: what a container is given.

A cgroup's quota is an amount of CPU time for each period. A process with more threads at work than
the quota divided by the period uses it up early, and then stands still until the period ends.
"""

import os
from collections.abc import Iterator


def cpus(process: str = "/proc/self") -> int | None:
    """The smallest quota of the cgroup of a process and of those that it lies in, in whole CPUs and
    at least one; None if there is none, or if it cannot be told."""
    try:
        return min((max(1, share) for share in _quotas(process)), default=None)
    except (OSError, ValueError, IndexError):  # not Linux, not readable, not as it is known
        return None


def _quotas(process: str) -> Iterator[int]:
    for mount, path, unified in _folders(process):
        while True:
            yield from _quota(mount + path, unified)
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


def _folders(process: str) -> Iterator[tuple[str, str, bool]]:
    """Where each hierarchy that may limit CPU time is mounted, the folder of the process in it, and
    whether it is one of version 2."""
    with open(f"{process}/cgroup") as lines:
        rows = [line.rstrip("\n").split(":", 2) for line in lines]
    with open(f"{process}/mountinfo") as lines:
        mounts = [line.split() for line in lines]
    for number, controllers, path in rows:
        unified = number == "0" and not controllers
        if not unified and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            kind, _, options = mount[mount.index("-") + 1 :][:3]
            if unified and kind != "cgroup2":
                continue
            if not unified and (kind != "cgroup" or "cpu" not in options.split(",")):
                continue
            # A container sees its own folder as the root, and may still be told the whole path.
            root = mount[3].rstrip("/")
            below = path == root or path.startswith(root + "/")
            yield mount[4], path[len(root) :] if below else "", unified


def _quota(folder: str, unified: bool) -> Iterator[int]:
    """The quota of one cgroup in whole CPUs, rounded down, if it has one."""
    try:
        if unified:
            with open(f"{folder}/cpu.max") as file:
                quota, period = file.read().split()
        else:
            with open(f"{folder}/cpu.cfs_quota_us") as file:
                quota = file.read()
            with open(f"{folder}/cpu.cfs_period_us") as file:
                period = file.read()
        if quota != "max" and int(quota) > 0:
            yield int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # the root of all has no such file
        return
