"""Some thousands of garbled files by chance; `fuzz_files` looks for more."""

import random

import pytest

from tests import fuzz_files


@pytest.mark.parametrize("suffix", fuzz_files.SUFFIXES)
def test_files_to_begin_with_are_sound(suffix, tmp_path):
    try:
        seeds = fuzz_files.seeds(suffix)
    except ImportError as error:
        pytest.skip(f"{error}")
    assert all(fuzz_files.tried(seed, suffix, str(tmp_path)) for seed in seeds)


# Those that no other library reads: pyarrow 16 ends the process at some that pyarrow 26 refuses.
@pytest.mark.parametrize("suffix", fuzz_files.OWN)
def test_garbled_files_are_refused_or_normalized(suffix, tmp_path):
    rng = random.Random(suffix)
    seeds = fuzz_files.seeds(suffix)
    kept = sum(
        fuzz_files.tried(fuzz_files.garbled(rng, rng.choice(seeds)), suffix, str(tmp_path))
        for _ in range(400)
    )
    assert 0 < kept < 400
