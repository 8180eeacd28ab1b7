"""What does it cost that my vectors are held by something else than a NumPy array?"""

from benchmarks import held


class Held:
    """The time of a call over that on a NumPy array of the same numbers: 1 is as fast."""

    params = (list(held.HELD), ("1x128", "1000x768"))
    param_names = ("held", "shape")
    unit = "NumPy calls"

    def setup(self, name: str, shape: str) -> None:
        try:
            held.calls(name, shape)
        except ImportError as error:
            raise NotImplementedError(str(error)) from error

    def track_ratio(self, name: str, shape: str) -> float:
        return held.ratios(name, shape, 0.3)["NumPy"]
