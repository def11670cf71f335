"""The training loop, and nothing else: batches of pairs in, a model that tells them apart out.

AdamW, warm-up and cosine decay, gradient clipping, the clamp of the logit scale: Radford et al. 2021
(arXiv:2103.00020), section 2.5. Left out: resuming, mixed precision, several processes.
"""

import csv
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from minclip_kernels import fused_clip_loss, fused_siglip_loss
from tqdm import tqdm

from minclip.checkpoint import save_weights
from minclip.data import Pairs, augment
from minclip.evaluate import recall_of_pairs
from minclip.files import replacing
from minclip.loss import clip_loss, cost_of_equals, siglip_loss
from minclip.model import CLIP
from minclip.tokenizer import Tokenizer

TEXT_GROUPS = 3  # a batch of captions is encoded in this many groups of similar length
REPORTS = 10  # evaluations on the way, spread evenly
METRICS = "metrics.csv"
LOSSES, BACKENDS = ("clip", "siglip"), ("fused", "naive")


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 40
    batch_size: int = 128
    lr: float = 1e-3
    seed: int = 0
    loss: str = "clip"  # or "siglip", for a model with a logit_bias
    backend: str = "fused"  # or "naive": the readable formula, with the B×B matrix
    weight_decay: float = 0.1
    warmup: float = 0.1  # share of all steps
    max_grad_norm: float = 1.0


def check_config(config: TrainConfig, n_captions: int | None = None) -> None:
    """Raise ValueError for what would waste the run; `n_captions` is checked once it is known."""
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"--seed is {config.seed}; it must be from 0 to 2^63 − 1")
    if config.loss not in LOSSES or config.backend not in BACKENDS:
        given = f"{config.loss!r} and {config.backend!r}"
        raise ValueError(f"loss and backend are {given}; expected one of {LOSSES} and one of {BACKENDS}")
    if config.epochs < 1:
        raise ValueError(f"--epochs is {config.epochs}; it must be at least 1")
    if config.batch_size < 2:
        raise ValueError(
            f"--batch-size is {config.batch_size}; it must be at least 2: one pair alone has nothing to be "
            "told apart from, and its loss is always 0"
        )
    if not (math.isfinite(config.lr) and config.lr > 0):
        raise ValueError(f"--lr is {config.lr}; it must be a positive number")
    if n_captions is not None and config.batch_size > n_captions:
        raise ValueError(
            f"--batch-size is {config.batch_size}; there are {n_captions} captions to train on, take fewer"
        )


def make_optimizer(model: CLIP, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: no gains, biases, embeddings or the logit scale."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or "embedding" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Share of the peak at `step` of `steps`: linear from 0 to 1, then half a cosine to 0."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def encode_by_length(model: CLIP, tokens: torch.Tensor, groups: int = TEXT_GROUPS) -> torch.Tensor:
    """The same features (B, E) as `model.encode_text(tokens)`, without most of the padding.

    One long caption in a batch pads all the others. Sorted by length and cut into groups, every group is padded only to
    its own longest; nothing after an end token is ever looked at, so this changes no feature.
    """
    lengths = tokens.argmax(dim=1) + 1
    order = lengths.argsort()
    features = [model.encode_text(tokens[rows, : int(lengths[rows].max())]) for rows in order.chunk(groups)]
    return torch.cat(features)[order.argsort()]


def duplicate_floor(captions: torch.Tensor, pictures: torch.Tensor, loss: str = "clip") -> float:
    """What a perfect model pays on this batch, given the ids (B) of its captions and of its pictures.

    A caption, or a picture, that stands in it k times cannot be told from itself, and pays for it each time.
    """

    def mean_cost(ids: torch.Tensor) -> float:
        _, group, counts = ids.unique(return_inverse=True, return_counts=True)
        return cost_of_equals(counts, loss)[group].mean().item()

    return max(mean_cost(captions), mean_cost(pictures))


def write_metrics(rows: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(field for row in rows for field in row)))
        writer.writeheader()
        writer.writerows(rows)


def contrastive_loss(
    model: CLIP, image_features: torch.Tensor, text_features: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """The loss of `config.loss` on features (B, E), by the kernels or by the readable formula."""
    scale = model.logit_scale.exp()
    if config.loss == "siglip":
        function = fused_siglip_loss if config.backend == "fused" else siglip_loss
        return function(image_features, text_features, scale, model.logit_bias)
    function = fused_clip_loss if config.backend == "fused" else clip_loss
    return function(image_features, text_features, scale)


def train_step(
    model: CLIP, optimizer: torch.optim.Optimizer, images: torch.Tensor, tokens: torch.Tensor, config: TrainConfig
) -> float:
    """One update on a batch of augmented pictures (B, 3, R, R) and token ids (B, T); returns the loss.

    Raises FloatingPointError, and leaves the weights alone, when the gradient is not finite.
    """
    image_features, text_features = model.encode_image(images), encode_by_length(model, tokens)
    loss = contrastive_loss(model, image_features, text_features, config)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"the loss is {loss.item()} and the norm of its gradient {norm}")
    optimizer.step()
    model.clamp_logit_scale()
    return loss.item()


def train(
    model: CLIP, tokenizer: Tokenizer, pairs: Pairs, held_out: Pairs | None, config: TrainConfig, run: Path
) -> list[dict[str, float]]:
    """Train `model` in place, on its device; returns the rows of metrics.csv, one for each step.

    Weights and metrics are written to the folder `run` at every report, `held_out` is evaluated there. Raises
    FloatingPointError when loss or gradient are not finite: the weights of the last report stay.
    """
    check_config(config, len(pairs))
    device = model.logit_scale.device
    generator = torch.Generator().manual_seed(config.seed)
    tokens = tokenizer(pairs.captions, model.config.context_length)
    caption_ids = tokens.unique(dim=0, return_inverse=True)[1]
    tokens, images = tokens.to(device), pairs.images.to(device)
    steps_per_epoch = len(pairs) // config.batch_size
    steps = config.epochs * steps_per_epoch
    report_at = {round(steps * i / REPORTS) for i in range(1, REPORTS + 1)}
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config))
    untrained = cost_of_equals(torch.tensor(config.batch_size), config.loss).item()
    order = torch.empty(0)
    rows: list[dict[str, float]] = []

    model.train()
    start = time.perf_counter()
    with tqdm(total=steps * config.batch_size, unit=" images", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        for step in range(1, steps + 1):
            place = (step - 1) % steps_per_epoch * config.batch_size
            if place == 0:
                order = torch.randperm(len(pairs), generator=generator)
            batch = order[place : place + config.batch_size]  # captions
            pictures = augment(images[pairs.image_of_caption[batch].to(device)], generator)
            lr = schedule.get_last_lr()[0]
            try:
                loss = train_step(model, optimizer, pictures, tokens[batch.to(device)], config)
            except FloatingPointError as error:
                raise FloatingPointError(f"step {step}: {error}; try a lower --lr. Earlier reports are kept") from error
            schedule.step()
            floor = duplicate_floor(caption_ids[batch], pairs.image_of_caption[batch], config.loss)
            row = {"step": step, "epoch": step / steps_per_epoch, "loss": loss, "untrained": untrained, "floor": floor}
            row |= {"lr": lr, "logit_scale": model.logit_scale.exp().item(), "seconds": time.perf_counter() - start}
            rows.append(row)
            bar.set_postfix_str(f"loss {loss:.2f} (untrained {untrained:.2f}, floor {floor:.2f})", refresh=False)
            bar.update(config.batch_size)
            if step in report_at:
                save_weights(run, model)
                bar.write(_report(model, tokenizer, held_out, row), file=sys.stderr)
                write_metrics(rows, run / METRICS)
    model.eval()
    return rows


def _report(model: CLIP, tokenizer: Tokenizer, held_out: Pairs | None, row: dict[str, float]) -> str:
    """A line for people; what was measured on `held_out` is added to `row`."""
    line = f"epoch {row['epoch']:5.1f}   loss {row['loss']:.3f}   {row['seconds']:4.0f} s"
    if held_out is not None:
        model.eval()
        found = recall_of_pairs(model, tokenizer, held_out)["image_to_text"]
        model.train()
        row |= {"unseen_top1": found[1], "unseen_top5": found[5]}
        line += f"   unseen top-1 {100 * found[1]:4.1f} %   top-5 {100 * found[5]:4.1f} %"
    return line
