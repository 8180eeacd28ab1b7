"""The kernels' machine code is the one committed: a move or a renaming leaves it as it is."""

import json

import pytest

from benchmarks import machine_code

RECORD = json.loads(machine_code.RECORD.read_text())
# What was built by the compiler of the record: another one makes other machine code.
BUILT = {level: machine_code.built(level, RECORD["versions"]) for level in RECORD["kernels"]}


@pytest.mark.skipif(
    not any(BUILT.values()), reason="nothing is built of these sources by the record's compiler"
)
def test_machine_code() -> None:
    for level in filter(BUILT.get, BUILT):
        found, wanted = BUILT[level], RECORD["kernels"][level]
        changed = {key for key in {*found, *wanted} if found.get(key) != wanted.get(key)}
        told = "if so meant: python -m benchmarks.machine_code --write"
        assert not changed, (sorted(changed), told)
