"""The kernels' machine code is the one committed: a move or a renaming leaves it as it is."""

import json

import pytest

from benchmarks import machine_code
from l2multi.backends.numba import shipped

RECORD = json.loads(machine_code.RECORD.read_text())
# What was built by the compiler of the record: another one makes other machine code.
BUILT = [
    level for level in RECORD["kernels"]
    if not isinstance(there := shipped.file_for(level), str)
    and there.head["versions"] == RECORD["versions"]
]  # fmt: skip


@pytest.mark.skipif(not BUILT, reason="nothing is built for a level of the record by its compiler")
def test_machine_code() -> None:
    for level in BUILT:
        found, wanted = machine_code.hashes(level), RECORD["kernels"][level]
        changed = {key for key in {*found, *wanted} if found.get(key) != wanted.get(key)}
        assert not changed, (sorted(changed), "if so meant: benchmarks.machine_code --write")
