"""The history of a training: one row for each step, read back from the device every few steps; metrics.csv; a log."""

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

    def __init__(self, pairs: int, batch_size: int, untrained: float) -> None:
        self.rows: list[Row] = []
        self.scores: list[tuple[float, float]] = []  # top-1 and top-5 on held-out pictures, one for each report
        self.log: TensorBoard | None = None  # it gets every row as well
        self._pending: list[tuple[Row, Measured]] = []
        self._pairs, self._batch_size, self._untrained = pairs, batch_size, untrained
        self._start = time.perf_counter()

    def add(self, step: int, measured: Measured, floor: float, lr: float) -> None:
        """Remember a step; `step` counts from 1."""
        epoch = step * self._batch_size / self._pairs
        row = {"step": step, "epoch": epoch, "loss": math.nan, "untrained": self._untrained}
        row |= {"floor": floor, "lr": lr, "logit_scale": math.nan, "seconds": time.perf_counter() - self._start}
        self._pending.append((row, measured))

    def read_back(self) -> Row:
        """Complete the rows of the steps since the last call; returns the newest row.

        Raises FloatingPointError, with the number of the step, for a loss or gradient that is not finite.
        """
        if not self._pending:
            return self.rows[-1]
        values = torch.stack([torch.stack(measured) for _, measured in self._pending]).tolist()
        for (row, _), (loss, norm, scale) in zip(self._pending, values, strict=True):
            if not math.isfinite(loss + norm):
                epoch, place = divmod((int(row["step"]) - 1) * self._batch_size, self._pairs)
                batch = place // self._batch_size
                raise FloatingPointError(
                    f"step {row['step']}, batch {batch + 1} of epoch {epoch + 1}: the loss is {loss} and the norm of "
                    f"its gradient {norm}; try a lower learning rate. The last checkpoint is kept"
                )
            self.rows.append(row | {"loss": loss, "logit_scale": scale})
            if self.log:
                self.log.add(self.rows[-1])
        self._pending.clear()
        return self.rows[-1]

    def add_score(self, top1: float, top5: float) -> None:
        """Add the scores on held-out pictures to the newest row."""
        self.rows[-1] |= {"unseen_top1": top1, "unseen_top5": top5}
        if self.log:
            self.log.add({"step": self.rows[-1]["step"], "unseen_top1": top1, "unseen_top5": top5})
        self.scores.append((top1, top5))

    def is_best(self) -> bool:
        """Whether the newest score is better than all before it."""
        return self.reports_since_best() == 0

    def reports_since_best(self) -> int:
        """How many scores came after the first of the best ones."""
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) if self.scores else 0

    def to_table(self) -> tuple[list[str], torch.Tensor]:
        """The rows that were read back, as names of columns and numbers (rows, columns) float64; NaN for no value."""
        fields = self._fields()
        values = [[row.get(field, math.nan) for field in fields] for row in self.rows]
        return fields, torch.tensor(values, dtype=torch.float64)

    def load_table(self, fields: list[str], table: torch.Tensor) -> None:
        """Continue from the rows of `to_table`; the clock continues from the last of them."""
        named = (zip(fields, row, strict=True) for row in table.tolist())
        self.rows = [{field: value for field, value in row if not math.isnan(value)} for row in named]
        for row in self.rows:
            row["step"] = int(row["step"])
        self.scores = [(row["unseen_top1"], row["unseen_top5"]) for row in self.rows if "unseen_top1" in row]
        self._start = time.perf_counter() - self.rows[-1]["seconds"]

    def write(self, run: Path) -> None:
        """Write the rows that were read back to metrics.csv in the folder `run`."""
        with replacing(run / METRICS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._fields())
            writer.writeheader()
            writer.writerows(self.rows)
        if self.log:
            self.log.flush()

    def _fields(self) -> list[str]:
        return list(dict.fromkeys(field for row in self.rows for field in row))


class TensorBoard:
    """Writes rows to the folder `run`/tensorboard, which `tensorboard --logdir` shows.

    Rows after `step` that are already there are hidden: a resumed run writes them again. Raises
    ModuleNotFoundError if the package is not installed.
    """

    def __init__(self, run: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            needed = "the log needs the package tensorboard: pip install 'minclip[tensorboard]'"
            raise ModuleNotFoundError(needed) from error
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, row: Row) -> None:
        for name in row.keys() - {"step"}:
            self._writer.add_scalar(name, row[name], int(row["step"]))

    def flush(self) -> None:
        self._writer.flush()
