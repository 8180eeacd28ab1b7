"""For the time being: names that backends still use."""

from l2multi import _backends
from l2multi._usable import asking, passes, unusable  # noqa: F401


def load(name):
    return _backends.load(_backends.first(name))


def no_short_way():
    from l2multi import _testing

    return _testing.general_path()
