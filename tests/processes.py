"""Scripts in fresh processes."""

import os
import subprocess
import sys
import textwrap


def run(*parts: str, warnings: str = "error::RuntimeWarning", **environment: str) -> str:
    """What a script of these parts prints in a fresh process, which must end well."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", "".join(map(textwrap.dedent, parts))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return done.stdout
