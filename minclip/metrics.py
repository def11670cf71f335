"""The history of a training: one row for each step, read back from the device every few steps, and metrics.csv."""

import csv
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch

from minclip.files import replacing

METRICS = "metrics.csv"
Row = dict[str, float]


class Measured(NamedTuple):
    """What a training step leaves on its device: scalar tensors, which nothing waits for."""

    loss: torch.Tensor
    gradient_norm: torch.Tensor
    logit_scale: torch.Tensor


class History:
    """The rows of metrics.csv. `add` is called after each step and reads nothing back; `read_back` does."""

    def __init__(self, steps_per_epoch: int, untrained: float) -> None:
        self.rows: list[Row] = []
        self._pending: list[tuple[Row, Measured]] = []
        self._steps_per_epoch, self._untrained = steps_per_epoch, untrained
        self._start = time.perf_counter()

    def add(self, step: int, measured: Measured, floor: float, lr: float) -> None:
        """Remember a step; `step` counts from 1."""
        row = {"step": step, "epoch": step / self._steps_per_epoch, "loss": math.nan, "untrained": self._untrained}
        row |= {"floor": floor, "lr": lr, "logit_scale": math.nan, "seconds": time.perf_counter() - self._start}
        self._pending.append((row, measured))

    def read_back(self) -> Row:
        """Complete the rows of the steps since the last call; returns the newest row.

        Raises FloatingPointError, with the number of the step, for a loss or gradient that is not finite.
        """
        values = torch.stack([torch.stack(measured) for _, measured in self._pending]).tolist()
        for (row, _), (loss, norm, scale) in zip(self._pending, values, strict=True):
            if not math.isfinite(loss + norm):
                raise FloatingPointError(
                    f"step {row['step']}: the loss is {loss} and the norm of its gradient {norm}; "
                    "try a lower learning rate. The weights of the last report are kept"
                )
            self.rows.append(row | {"loss": loss, "logit_scale": scale})
        self._pending.clear()
        return self.rows[-1]

    def write(self, run: Path) -> None:
        """Write the rows that were read back to metrics.csv in the folder `run`."""
        with replacing(run / METRICS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(field for row in self.rows for field in row)))
            writer.writeheader()
            writer.writerows(self.rows)
