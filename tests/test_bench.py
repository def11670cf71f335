import csv
import subprocess
import sys

import pytest
import torch
from minclip_kernels import bench, fused_clip_loss


def test_the_contenders_compute_the_same_loss():
    image, text = torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(14.3)
    assert bench.arange_loss(image, text, scale).item() == pytest.approx(fused_clip_loss(image, text, scale).item())


def test_it_prints_a_table_with_every_contender():
    command = [sys.executable, "-m", "minclip_kernels.bench", "8", "16", "--width", "4", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {(row["N"], row["what"]) for row in rows} >= {
        (count, what) for count in ("8", "16") for what in ("fused", "arange", "four products")
    }
    assert all(float(row["min_ms"]) <= float(row["median_ms"]) <= float(row["max_ms"]) for row in rows)
    assert {row["over_fused"] for row in rows if row["what"] == "fused"} == {"1.00"}
