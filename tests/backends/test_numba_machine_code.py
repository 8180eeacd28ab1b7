"""The kernels' machine code is the one committed: a move or a renaming leaves it as it is."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

RECORD = json.loads((Path(__file__).parent / "machine_code.json").read_text())
VERSIONS = {name: metadata.version(name) for name in RECORD["versions"]}


@pytest.mark.skipif(RECORD["versions"] != VERSIONS, reason="another compiler, other machine code")
def test_machine_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.machine_code", RECORD["level"]],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    found = {key: digest for digest, _, key in lines}
    changed = {
        key for key in {*found, *RECORD["kernels"]} if found.get(key) != RECORD["kernels"].get(key)
    }
    assert not changed, (sorted(changed), "if so meant: python -m benchmarks.machine_code --write")
