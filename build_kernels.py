"""The build hook: compiles the kernels that a wheel carries, with Numba, while it is built.

From a clone, also an editable one, for the CPU at hand; from a source distribution, as ``python -m
build`` makes and takes it, for all that `l2multi.backends.numba.machine` lists. L2MULTI_KERNELS in
the environment says otherwise: names of these levels, "all" or "none". Where Numba cannot compile,
the wheel is complete without: kernels are then compiled when they are first called.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SELECTION = "L2MULTI_KERNELS"


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles in a process of its own, into the package, from where hatchling takes the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files of the wheel are collected."""
        root = Path(self.root)
        from_clone = version == "editable" or not (root / "PKG-INFO").exists()
        wanted = os.environ.get(SELECTION, "" if from_clone else "all").replace(",", " ").split()
        if wanted == ["none"]:
            return
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "l2multi.backends.numba.build", *wanted],
            cwd=root,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = done.stdout.strip()
        if done.returncode == 0:
            self.app.display_info(said)
            return
        self.app.display_warning(
            "l2multi: no kernels were compiled, so that each is compiled when it is first called: "
            + (said.splitlines() or ["the compiler ended without a word"])[-1]
        )
