"""`minclip bench train`: images per second and peak memory of a training step, beside open_clip's."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from minclip_kernels.bench.worker import peak, reset_peak

from minclip import data
from minclip.commands.bench import NEEDS_OPEN_CLIP, report
from minclip.commands.common import choose_device
from minclip.model import CLIP, MAX_LOGIT_SCALE, PRESETS, CLIPConfig
from minclip.tokenizer import Tokenizer
from minclip.train import State, TrainConfig, make_optimizer, train_step

DESCRIPTION = """Images per second and peak memory of a training step, beside open_clip's model of the same sizes.

Both models learn from the same pictures and captions, in turns."""
THEIR_TOKENS = 77  # open_clip pads every caption to its context length
Step = Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", choices=sorted(PRESETS), default="emoji", help="sizes of both models (default: emoji)")
    add("--batch-size", type=int, default=128, help="pairs per training step (default: 128)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to compute on (default: auto)")
    add("--seconds", type=float, default=60.0, help="duration of the measured steps (default: 60)")
    add("--out", type=Path, default=Path("bench/train.json"), help="file of the results (default: bench/train.json)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.batch_size < 2 or arguments.seconds <= 0:
        given = f"--batch-size {arguments.batch_size}, --seconds {arguments.seconds}"
        raise ValueError(f"{given}: expected a batch of at least 2, and a time of more than 0")
    device = choose_device(arguments.device)
    rows = measure_training(PRESETS[arguments.model], arguments.batch_size, device, arguments.seconds)
    report(
        [{"contender": row.pop("contender"), "model": arguments.model, **row} for row in rows], device, arguments.out
    )
    return 0


def measure_training(config: CLIPConfig, batch_size: int, device: str, seconds: float) -> list[dict[str, Any]]:
    """Measure steps of both models, in turns, for about `seconds` after two steps that warm up."""
    steps = training_steps(config, batch_size, device)
    memory = {name: _memory(step, device) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times["minclip"]:
        for name, step in steps.items():
            times[name].append(_seconds(step, device))
    return [
        {
            "contender": name,
            "images/s": batch_size / statistics.median(times[name]),
            "lowest": batch_size / max(times[name]),
            "highest": batch_size / min(times[name]),
            "steps": len(times[name]),
            "MB above model and optimizer": memory[name],
            "batch size": batch_size,
        }
        for name in steps
    ]


def _memory(step: Step, device: str) -> float | str:
    """The peak memory of a step in megabytes, after one in which the optimizer makes its state."""
    step()
    before = reset_peak(device)
    step()
    after = peak(device)
    return "unknown" if before is None or after is None else after - before


def _seconds(step: Step, device: str) -> float:
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def training_steps(config: CLIPConfig, batch_size: int, device: str) -> dict[str, Step]:
    """A step of our model and one of open_clip's of the same sizes, on the same batch of emoji, as functions.

    Raises ModuleNotFoundError without open_clip.
    """
    torch.manual_seed(0)
    ours, theirs = CLIP(config).to(device).train(), open_clip_model(config).to(device).train()
    images, tokens = _batch(config, batch_size)
    images, settings = images.to(device), TrainConfig(batch_size=batch_size)
    state = State(ours, make_optimizer(ours, settings))
    return {
        "minclip": lambda: train_step(state, images, tokens, settings),
        "open_clip": _their_step(theirs, images, tokens.to(device), settings),
    }


def _batch(config: CLIPConfig, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised pictures (B, 3, R, R) and token ids (B, T) of emoji."""
    pairs, _ = data.load_emoji(data.Preprocess(config.image_resolution), artists=[data.OPENMOJI])
    tokenizer = Tokenizer.train(pairs.captions, config.vocab_size)
    captions = torch.arange(batch_size) % len(pairs)
    images = data.normalize(pairs.images[pairs.image_of_caption[captions]])
    return images, tokenizer([pairs.captions[i] for i in captions.tolist()], config.context_length)


def _their_step(model: Any, images: torch.Tensor, tokens: torch.Tensor, settings: TrainConfig) -> Step:
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    optimizer, loss = make_optimizer(model, settings), ClipLoss()
    padded = F.pad(tokens, (0, THEIR_TOKENS - tokens.shape[1]))

    def step() -> None:
        image_features, text_features, scale = model(images, padded)
        optimizer.zero_grad()
        loss(image_features, text_features, scale).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    return step


def open_clip_model(config: CLIPConfig) -> Any:
    """open_clip's CLIP with the sizes of `config` and a context of 77 tokens."""
    try:
        from open_clip.model import CLIP as OpenCLIP  # pyright: ignore[reportMissingImports]
        from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(NEEDS_OPEN_CLIP.format("train")) from error
    vision = CLIPVisionCfg(
        layers=config.vision_layers, width=config.vision_width, head_width=config.vision_width // config.vision_heads,
        patch_size=config.vision_patch_size, image_size=config.image_resolution,
    )  # fmt: skip
    text = CLIPTextCfg(
        context_length=THEIR_TOKENS, vocab_size=config.vocab_size, width=config.transformer_width,
        heads=config.transformer_heads, layers=config.transformer_layers,
    )  # fmt: skip
    return OpenCLIP(config.embed_dim, vision, text, quick_gelu=config.quick_gelu)
