"""The training loop, and nothing else: batches of pairs go in, a model that tells them apart comes out.

AdamW, warm-up and cosine decay, gradient clipping, the clamp of the logit scale: Radford et al. 2021
(arXiv:2103.00020), section 2.5.
"""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from minclip_kernels import fused_clip_loss, fused_siglip_loss
from tqdm import tqdm

from minclip import gradient_cache
from minclip.batches import Batches
from minclip.checkpoints import load_checkpoint, save_checkpoint
from minclip.data import Pairs
from minclip.distributed import ONE_PROCESS, World
from minclip.evaluate import recall_of_pairs
from minclip.finetune import learning_rates, lock
from minclip.formats.run import BEST, save_weights
from minclip.images import to_device
from minclip.interruption import Interruption
from minclip.loss import clip_loss, cost_of_equals, siglip_loss
from minclip.metrics import History, Measured, Row, TensorBoard
from minclip.model import CLIP
from minclip.teacher import resemblance_loss, teacher_features
from minclip.tokenizer import Tokenizer
from minclip.train_config import FREE, TrainConfig

TEXT_GROUPS = 3  # a batch of captions is encoded in this many groups of similar length
REPORTS = 10  # evaluations during a training, evenly spread
READ_BACK_EVERY = 10  # steps between two reads of the device's numbers; each read waits for the device
SAVE_EVERY = 600.0  # seconds between two checkpoints, besides those of the reports
LENGTHS = 8  # compiled towers see captions of this many tokens, twice as many, and so on


@dataclass
class State:
    """What training carries from step to step; `step` counts the updates that were made.

    `encode` is what `make_encoder` returned, or None for the towers as they are; `world` the processes that train;
    `seen` (P, C) what the teacher sees in each picture, if there is one.
    """

    model: CLIP
    optimizer: torch.optim.Optimizer
    step: int = 0
    encode: gradient_cache.Encode | None = None
    world: World = ONE_PROCESS
    seen: torch.Tensor | None = None


def make_optimizer(model: CLIP, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: no gains, biases, embeddings, nor the logit scale.

    Its groups have an `lr_scale`, the share of the learning rate at which their layers learn.
    """
    groups: defaultdict[tuple[float, float], list[torch.nn.Parameter]] = defaultdict(list)
    parameters = dict(model.named_parameters())
    for name, scale in learning_rates(model, config.layer_decay).items():
        is_free = parameters[name].ndim < 2 or "embedding" in name
        groups[0.0 if is_free else config.weight_decay, scale].append(parameters[name])
    options: list[dict[str, Any]] = [
        {"params": groups[decay, scale], "weight_decay": decay, "lr_scale": scale}
        for decay, scale in sorted(groups, reverse=True)
    ]
    return torch.optim.AdamW(options, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Share of the peak at `step` of `steps`: linear from 0 to 1, then half a cosine to 0."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_encoder(model: CLIP, config: TrainConfig) -> gradient_cache.Encode:
    """Both towers as one function: pictures (B, 3, R, R) and token ids (B, T) to features (B, E) of each."""
    encode_image, encode_text, multiple = model.encode_image, model.encode_text, 1
    if config.compile:
        encode_image, encode_text, multiple = torch.compile(encode_image), torch.compile(encode_text), LENGTHS

    def encode(images: torch.Tensor, tokens: torch.Tensor) -> gradient_cache.Part:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return encode_image(images), encode_by_length(encode_text, tokens, model.device, multiple=multiple)

    return encode


def encode_by_length(
    encode_text: Callable[[torch.Tensor], torch.Tensor],
    tokens: torch.Tensor,
    device: torch.device,
    groups: int = TEXT_GROUPS,
    multiple: int = 1,
) -> torch.Tensor:
    """The same features (B, E) as `encode_text(tokens)`, on `device`, without most of the padding.

    One long caption in a batch pads all the others. Sorted by length and cut into groups, each caption is padded only
    to the longest of its group; nothing after an end token is ever looked at, so no feature changes. Lengths are
    rounded up to a multiple, as far as the tokens reach: compiled towers should meet few of them.
    """
    lengths = tokens.argmax(dim=1) + 1
    order = lengths.argsort()
    longest = [math.ceil(int(lengths[rows].max()) / multiple) * multiple for rows in order.chunk(groups)]
    parts = (tokens[rows, :length] for rows, length in zip(order.chunk(groups), longest, strict=True))
    features = torch.cat([encode_text(to_device(part, device)) for part in parts])  # in the order of length
    return features[to_device(order.argsort(), device)]


def contrastive_loss(
    model: CLIP,
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    config: TrainConfig,
    ids: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """The loss of `config.loss` on features (B, E), by the kernels with their options, or by the readable formula.

    `ids` (B,) are those of the captions, where equal ones are not simply negatives of each other.
    """
    scale = model.logit_scale.exp()
    if config.loss == "siglip":
        function = fused_siglip_loss if config.backend == "fused" else siglip_loss
        return function(image_features, text_features, scale, model.logit_bias, **options)
    if ids is not None:
        options |= {"ids": ids, "positives": config.equal_captions}
    if config.backend == "naive":
        return clip_loss(image_features, text_features, scale, **options)
    # A batch that is encoded in parts leaves no memory to spare for the loss.
    memory = 0 if config.micro_batch else None
    return fused_clip_loss(image_features, text_features, scale, memory=memory, **options)


def train_step(state: State, images: torch.Tensor, tokens: torch.Tensor, config: TrainConfig) -> Measured:
    """Update the model on a batch of normalised pictures (B, 3, R, R) and token ids (B, T)."""
    size = config.micro_batch or len(images)
    return update(state, list(zip(images.split(size), tokens.split(size), strict=True)), config)


def update(
    state: State,
    parts: Sequence[gradient_cache.Part],
    config: TrainConfig,
    pictures: torch.Tensor | None = None,
    shard_sizes: Sequence[int] | None = None,
    ids: torch.Tensor | None = None,
) -> Measured:
    """Update the model on a batch in parts: pictures (b, 3, R, R) and token ids (b, T) of each.

    `pictures` (B,), on the device, are the numbers of the pictures in `state.seen`, where there is a teacher; `ids`
    (B,), there too, those of the captions, unless equal ones are negatives of each other. Several processes call this
    with their parts of one batch; `shard_sizes` are the numbers of pairs of each.
    With `make_optimizer`, a gradient that is not finite leaves the weights as they are; the caller sees it in the norm.
    """
    model, world = state.model, state.world
    options = {"group": world.group, "shard_sizes": shard_sizes} if world.group else {}

    def loss_of(image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        loss = contrastive_loss(model, image_features, text_features, config, ids, **options)
        if state.seen is None:
            return loss
        resemblance = config.distill * resemblance_loss(image_features, state.seen[pictures])
        return loss + resemblance - resemblance.detach()  # its gradient, while the loss that is reported stays CLIP's

    state.optimizer.zero_grad()
    loss = gradient_cache.backward(state.encode or make_encoder(model, config), parts, loss_of)
    world.average([loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    if state.optimizer.defaults.get("fused"):
        # Fused optimizers read this flag on the device and skip the update if it is set; torch.amp relies on it too.
        state.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    state.optimizer.step()
    model.clamp_logit_scale()
    state.step += 1
    return Measured(loss.float(), norm, model.logit_scale.detach().exp())


def train(
    model: CLIP,
    tokenizer: Tokenizer,
    batches: Batches,
    held_out: Pairs | None,
    config: TrainConfig,
    run: Path,
    resume: bool = False,
    world: World = ONE_PROCESS,
) -> list[Row]:
    """Train `model` in place, on its device; returns the rows of metrics.csv, one for each step.

    At every report `held_out` is evaluated, and the weights, the metrics and a checkpoint are written to the folder
    `run`. With `resume`, the training continues from the newest checkpoint there, if there is one. Every process of
    `world` calls this with the same arguments; only the main one evaluates and writes.
    Raises FloatingPointError if the loss or its gradient is not finite, and KeyboardInterrupt, when the step is done
    and saved, if Ctrl-C or SIGTERM came; the last checkpoint stays.
    """
    _check(config, batches, held_out, world)
    steps, settings = batches.steps(config.epochs), _settings(config, batches)
    state, history = _start(model, batches, config, world)
    if resume:
        state.step = load_checkpoint(run, model, state.optimizer, history, settings)
    world.copy_from_main(list(model.parameters()))
    if config.log and world.is_main:
        history.log = TensorBoard(run, state.step)
    report_at = {round(steps * i / REPORTS) for i in range(1, REPORTS + 1)}
    patience, saved_at = config.early_stopping or REPORTS, time.monotonic()
    is_over = history.reports_since_best() >= patience
    with (
        _progress_bar(steps, state, batches) as bar,
        Interruption(world.size > 1) as interruption,
        world.naming_losses(),
    ):
        while state.step < steps and not is_over:
            _next_step(state, batches, history, steps, config)
            is_report, is_due = state.step in report_at, time.monotonic() - saved_at > SAVE_EVERY
            if is_report or state.step % READ_BACK_EVERY == 0:
                _show(history.read_back(), state.step * batches.batch_size, bar)
            if is_report and world.is_main:
                bar.write(_report(model, tokenizer, held_out, history, run), file=sys.stderr)
            is_over = history.reports_since_best() >= patience
            is_over, is_stopped, is_due = world.any(is_over, interruption.requested, is_due)
            if is_report or is_stopped or is_due:
                _save(state, history, run, settings)
                saved_at = time.monotonic()
            if is_stopped and state.step < steps:
                raise KeyboardInterrupt(f"stopped after step {state.step} of {steps}, and saved")
    model.eval()
    return history.rows


def _check(config: TrainConfig, batches: Batches, held_out: Pairs | None, world: World) -> None:
    """Raise ValueError for a setting that cannot be combined with the others."""
    if config.early_stopping and held_out is None:
        raise ValueError(f"early_stopping is {config.early_stopping}; it needs held-out pictures, and there are none")
    if batches.batch_size < world.size:
        raise ValueError(f"batch_size is {batches.batch_size}; it must be at least the {world.size} processes")
    if config.distill and not isinstance(batches.pairs.images, torch.Tensor):
        raise ValueError(f"distill is {config.distill}; it must be 0 for pictures that are streamed")
    if config.distill and world.size > 1:
        raise ValueError(f"distill is {config.distill}; it must be 0 in {world.size} processes")
    if config.backend == "naive" and world.size > 1:
        raise ValueError(f"backend is 'naive'; it must be 'fused' in {world.size} processes")


def _start(model: CLIP, batches: Batches, config: TrainConfig, world: World) -> tuple[State, History]:
    """A training before its first step."""
    model.train().set_grad_checkpointing(config.grad_checkpoint)
    lock(model, config.lock, config.unlock_last)
    seen = teacher_features(batches.pairs.images[:], model.device) if config.distill else None
    state = State(model, make_optimizer(model, config), encode=make_encoder(model, config), world=world, seen=seen)
    untrained = cost_of_equals(torch.tensor(batches.batch_size), config.loss).item()
    return state, History(len(batches.pairs), batches.batch_size, untrained)


def _settings(config: TrainConfig, batches: Batches) -> dict[str, Any]:
    """What must not change when a run is resumed."""
    kept = {name: value for name, value in asdict(config).items() if name not in FREE}
    return kept | {"checksum of the pictures and captions": batches.fingerprint()}


def _progress_bar(steps: int, state: State, batches: Batches) -> tqdm:
    hidden = not (sys.stderr.isatty() and state.world.is_main)
    total, done = steps * batches.batch_size, state.step * batches.batch_size
    return tqdm(total=total, initial=done, unit=" images", unit_scale=True, disable=hidden)


def _next_step(state: State, batches: Batches, history: History, steps: int, config: TrainConfig) -> None:
    lr = config.lr * learning_rate(state.step, steps, config)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    floor = batches.floor(state.step, config.loss, config.equal_captions)
    device, shards = state.model.device, state.world.shards(batches.batch_size)
    shard = shards[state.world.rank]
    parts = batches.parts(state.step, device, shard, config.micro_batch)
    pictures = None if state.seen is None else to_device(batches.pictures(state.step), device)
    negatives = config.equal_captions == "negatives"
    ids = None if negatives else to_device(batches.caption_ids(state.step)[shard], device)
    measured = update(state, parts, config, pictures, [shard.stop - shard.start for shard in shards], ids)
    history.add(state.step, measured, floor, lr)


def _show(row: Row, images: int, bar: tqdm) -> None:
    text = f"loss {row['loss']:.2f} (untrained {row['untrained']:.2f}, floor {row['floor']:.2f})"
    bar.set_postfix_str(text, refresh=False)
    bar.update(images - bar.n)


def _save(state: State, history: History, run: Path, settings: dict[str, Any]) -> None:
    """Write a checkpoint, unless one of the last steps had a loss or gradient that is not finite."""
    history.read_back()
    if state.world.is_main:
        save_checkpoint(run, state.model, state.optimizer, state.step, history, settings)


def _report(model: CLIP, tokenizer: Tokenizer, held_out: Pairs | None, history: History, run: Path) -> str:
    """Save weights and metrics; returns a line to print, with the scores on `held_out`."""
    row = history.rows[-1]
    line = f"epoch {row['epoch']:5.1f}   loss {row['loss']:.3f}   {row['seconds']:4.0f} s"
    if held_out is not None:
        model.eval()
        found = recall_of_pairs(model, tokenizer, held_out)["image_to_text"]
        model.train()
        history.add_score(found[1], found[5])
        line += f"   unseen top-1 {100 * found[1]:4.1f} %   top-5 {100 * found[5]:4.1f} %"
        if history.is_best():
            save_weights(run, model, BEST)
    save_weights(run, model)
    history.write(run)
    return line
