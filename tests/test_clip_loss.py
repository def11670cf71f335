import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

checks = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("loss_checks.py"))))

from minclip_kernels import clip_loss, fused_clip_loss, reference  # noqa: E402

KINDS, make_features, run, check = checks.KINDS, checks.make_features, checks.run, checks.check
every_backend = pytest.mark.parametrize("where", checks.BACKENDS)


def on(where, *tensors):
    return tuple(tensor.to(where[1]) for tensor in tensors)


shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.floats(-2, 2).map(lambda power: 10**power)
chunks = st.one_of(st.none(), st.integers(1, 210))


@every_backend
@settings(max_examples=60)
@given(shapes, scales, st.sampled_from(KINDS), st.sampled_from([0.0, 4.0]), chunks, st.integers(0, 9))
def test_float32_equals_the_reference(where, shape, scale, kind, spread, chunk_size, seed):
    image, text = on(where, *make_features(kind, *shape, seed=seed, spread=spread))
    check(image, text, scale, backend=where[0], chunk_size=chunk_size)
