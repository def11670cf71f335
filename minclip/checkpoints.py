"""Checkpoints of a training: all that the next step depends on, so that a killed run resumes with the same bits.

One is a safetensors file, `checkpoints/step-00000420.safetensors`: weights, the optimizer's moments, the states of
torch's generators and the history; and, as metadata, the settings that must not change when a run is resumed. The
position in the data is the number of the step, because order and augmentation are functions of it (`batches.py`).
Nothing depends on the number of processes, so that any number of them can resume; with another number of processes,
sums are rounded differently.
"""

import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from minclip.metrics import History
from minclip.model import CLIP
from minclip.tensors import read_tensors, write_tensors

FOLDER = "checkpoints"
KEEP = 2  # the last one, and the one before it in case the last is damaged
WEIGHT, MOMENT, GENERATOR, HISTORY = "weight/", "optimizer/", "generator/", "history"


def save_checkpoint(
    run: Path, model: CLIP, optimizer: torch.optim.Optimizer, step: int, history: History, settings: dict[str, Any]
) -> None:
    """Write the checkpoint of a step, beside its target and renamed, and delete all but the last KEEP."""
    fields, table = history.to_table()
    tensors = {WEIGHT + name: value for name, value in model.state_dict().items()}
    tensors |= {MOMENT + name: value for name, value in _moments(model, optimizer).items()}
    tensors |= {GENERATOR + name: value for name, value in _generators(model.device).items()}
    content = {"step": step, "fields": fields, "settings": settings}
    (run / FOLDER).mkdir(exist_ok=True)
    path = run / FOLDER / f"step-{step:08d}.safetensors"
    write_tensors(path, tensors | {HISTORY: table}, {"content": json.dumps(content)})
    for old in checkpoints(run)[KEEP:]:
        old.unlink()


def load_checkpoint(
    run: Path, model: CLIP, optimizer: torch.optim.Optimizer, history: History, settings: dict[str, Any]
) -> int:
    """Load the newest checkpoint of `run` that is whole; returns its step, or 0 if there is none.

    A damaged one is passed over with a warning. Raises ValueError if all are damaged, or if one of the `settings` is
    not as it was.
    """
    read = _newest(run)
    if read is None:
        return 0
    path, tensors, content = read
    for name, value in settings.items():
        if content["settings"].get(name, value) != value:
            raise ValueError(f"{name} is {value}; it must be {content['settings'][name]} to resume from {path}")
    model.load_state_dict(_part(tensors, WEIGHT))
    _load_moments(model, optimizer, _part(tensors, MOMENT))
    _load_generators(model.device, _part(tensors, GENERATOR))
    history.load_table(content["fields"], tensors[HISTORY])
    return content["step"]


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"), reverse=True)


def _newest(run: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole: its path, tensors and metadata."""
    damages = []
    for path in checkpoints(run):
        try:
            tensors, metadata = read_tensors(path)
        except ValueError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            warnings.warn(f"{damage}; resuming from the checkpoint before it, {path.name}", stacklevel=2)
        return path, tensors, json.loads(metadata["content"])
    if damages:
        raise ValueError(f"{'; '.join(damages)}; no checkpoint of {run} is left to resume from")
    return None


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _moments(model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer has stored for each parameter, such as `exp_avg/visual.proj`."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{key}/{names[of]}": value for of, stored in optimizer.state.items() for key, value in stored.items()}


def _load_moments(model: CLIP, optimizer: torch.optim.Optimizer, moments: dict[str, torch.Tensor]) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    stored: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for path, value in moments.items():
        key, _, name = path.partition("/")
        stored[name][key] = value
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {i: stored[name] for i, name in enumerate(order) if name in stored}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators on the CPU and on a GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _load_generators(device: torch.device, states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
