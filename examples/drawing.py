"""How the plots of the examples look; `matplotlib` draws them.

Labels stay text and nothing in a file tells the time, so the same figures give the same file.
"""

from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "l2multi", "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"], "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "axes.prop_cycle": mpl.cycler(color=["#3f51b5", "#d9822b", "#2e8b57"]),
    "legend.frameon": False,
})  # fmt: skip


def figure(columns: int, height: float = 3.4, **keywords: Any) -> tuple[Any, Any]:
    """A figure with axes side by side."""
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(4.6 * columns, height), **keywords)


def save(shape: Any, file: str) -> None:
    """Write a figure."""
    from matplotlib import pyplot

    shape.tight_layout()
    shape.savefig(file, metadata={"Date": None})
    pyplot.close(shape)
