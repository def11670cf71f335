"""A stepper through one program of a kernel: where each of its loads and stores goes, and what its mask forbids."""

import importlib
import importlib.util

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from check.interpreter import Touch


def step_through(touches: list[Touch], program: tuple[int, ...], **tensors: Tensor) -> None:
    """Draws what one program reads and writes, step by step; tensors: what the kernel was given, by its names.

    With a slider where ipywidgets is installed, else all steps side by side.
    """
    steps = [touch for touch in touches if touch.program == program]
    print(f"program {program}: {len(steps)} of {len(touches)} loads and stores")
    if importlib.util.find_spec("ipywidgets") is None:
        draw(steps, range(len(steps)), tensors)
        return
    widgets = importlib.import_module("ipywidgets")

    def show(step: int) -> None:
        draw(steps, range(step, step + 1), tensors)
        plt.show()

    widgets.interact(show, step=widgets.IntSlider(0, 0, len(steps) - 1))


def draw(steps: list[Touch], chosen: range, tensors: dict[str, Tensor]) -> None:
    """Above, the tensor, with what was touched in this step dark and earlier in grey; below, the tile of addresses."""
    figure, all_axes = plt.subplots(2, len(chosen), figsize=(max(2.6 * len(chosen), 4), 5.2), squeeze=False)
    for (above, below), k in zip(all_axes.T, chosen, strict=True):
        touch = steps[k]
        _draw_tensor(above, tensors[touch.name], [step for step in steps[: k + 1] if step.name == touch.name])
        above.set_title(f"step {k}: {touch.verb} {touch.name}")
        _draw_tile(below, touch.tile)
    all_axes[1, 0].set_ylabel("the tile: place of each element")
    figure.align_ylabels()


def _draw_tensor(axes: Axes, tensor: Tensor, steps: list[Touch]) -> None:
    shade = torch.zeros(tensor.numel())
    for step in steps:
        shade[step.places] = 0.35
    shade[steps[-1].places] = 0.9
    rows = tensor.reshape(-1, tensor.shape[-1]).shape
    axes.imshow(shade.view(rows).numpy(), cmap="Greys", vmin=0, vmax=1)
    axes.set_xticks([k + 0.5 for k in range(rows[1] - 1)], minor=True)
    axes.set_yticks([k + 0.5 for k in range(rows[0] - 1)], minor=True)
    axes.grid(which="minor", color="0.8", linewidth=0.6)
    axes.set(xticks=[0, rows[1] - 1], yticks=[0, rows[0] - 1] if rows[0] > 1 else [0])
    axes.tick_params(which="minor", length=0)
    axes.spines[["top", "right"]].set_visible(True)


def _draw_tile(axes: Axes, tile: Tensor) -> None:
    tile = tile.reshape(-1, tile.shape[-1]) if tile.ndim else tile.reshape(1, 1)
    axes.imshow((tile < 0).numpy(), cmap="Greys", vmin=0, vmax=3)
    for i, row in enumerate(tile.tolist()):
        for j, place in enumerate(row):
            axes.text(j, i, "no" if place < 0 else f"{place}", ha="center", va="center", fontsize=8)
    axes.set(xticks=[], yticks=[], xlabel="×".join(map(str, tile.shape)))
    axes.spines[["top", "right"]].set_visible(True)
