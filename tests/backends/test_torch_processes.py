"""Tensors whose values several processes hold."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="a torch without processes")
def test_tensors_spread_over_processes(tmp_path: Path) -> None:
    """Over the batch, over the vector, replicated; and with partial sums, which are refused."""
    script = [sys.executable, "-m", "tests.backends.torch_processes", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
