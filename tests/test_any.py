"""Calls of any kind on every subject: any container, shape, axis, dtype, layout, magnitude and
keyword, with exact integers as the oracle. `benchmarks.soak` has more of them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import l2multi as l2
from tests import anything

EXAMPLES = 16


def test_any_call(backend):
    """What the contract says, whatever is asked."""

    # Where each call is a compilation, a few.
    @settings(
        max_examples=4 if backend.compiles_shapes else EXAMPLES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def answers(data):
        call = anything.drawn(lambda some: data.draw(st.sampled_from(some)), backend)
        anything.answered(backend, call)

    answers()


@pytest.mark.only("is_reference")
def test_wrong_answers_are_found(backend, monkeypatch):
    """Off by an ulp, a policy that is not heeded, an input that changes, another `out`."""
    call = anything.Call("normalize", np.dtype("f4"), (4, 17), -1, "zeros", "contiguous", 3, {})
    sound = l2.normalize
    anything.answered(backend, call)

    def wrong(broken, **keywords):
        with monkeypatch.context() as patch:
            patch.setattr(l2, "normalize", broken)
            with pytest.raises(AssertionError):
                anything.answered(backend, call._replace(keywords=keywords))

    def off(x, *rest, **keywords):
        y = sound(x, *rest, **keywords)
        y[y != 0] *= np.float32(1 + 2**-22)
        return y

    def lax(x, *rest, zero="keep", **keywords):
        return sound(x, *rest, **keywords)

    def writes(x, *rest, **keywords):
        y = sound(x, *rest, **keywords)
        x[0] = 7
        return y

    def elsewhere(x, *rest, out=None, **keywords):
        return sound(x, *rest, **keywords)

    wrong(off)
    wrong(lax, zero="raise")
    wrong(writes)
    wrong(elsewhere, out="fortran")
