"""The broken trainings of lesson 20, small enough to run in a second each.

Do not read this before you have made your diagnoses: every function here names its bug.

A world of made-up pictures and captions takes the place of emoji: each of C concepts is a random vector, its caption a
fixed linear image of that vector, its pictures other linear images with noise. Two small towers learn to match them.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import minclip
from minclip import data, evaluate
from minclip.data.emoji import emoji_group, is_basic, load_artist
from minclip.tokenizer import Tokenizer

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # features (N, D), features (N, D), the exponentiated scale
Row = dict[str, float]
CONCEPTS, WIDTH, FEATURES = 64, 32, 16
START = math.log(1 / 0.07)
TEMPERATURE, LENGTH = 0.3, 2.0  # of the soft targets, and of the features there


class World:
    """Pictures (C, 32) with fresh noise for each generator, and the captions (C, 32) of the same concepts."""

    def __init__(self, noise: float, concepts: int = CONCEPTS) -> None:
        generator = torch.Generator().manual_seed(0)
        ideas = torch.randn(concepts, FEATURES, generator=generator)
        self._seen = ideas @ torch.randn(FEATURES, WIDTH, generator=generator) / 4
        self.texts = ideas @ torch.randn(FEATURES, WIDTH, generator=generator) / 4
        self._noise = noise

    def pictures(self, seed: int) -> Tensor:
        noise = torch.randn(self._seen.shape, generator=torch.Generator().manual_seed(seed))
        return self._seen + self._noise * noise


class Towers(nn.Module):
    """Both towers and the logarithm of the scale; the first weights are always the same."""

    def __init__(self, log_scale: float = START) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.text = tower(), tower()
        self.logit_scale = nn.Parameter(torch.tensor(log_scale))


def tower(spread: float = 0.03, level: float = 1.0) -> nn.Sequential:
    """From (N, 32) to features (N, 16), which begin nearly alike, as those of larger towers do."""
    last = nn.Linear(128, FEATURES)
    nn.init.normal_(last.weight, std=spread)
    nn.init.normal_(last.bias, std=level)
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), last)


class Training(NamedTuple):
    towers: Towers
    world: World
    rows: list[Row]

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


def right_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return minclip.clip_loss(x, y, scale)


def train(
    loss: Loss = right_loss,
    steps: int = 300,
    noise: float = 0.3,
    log_scale: float = START,
    scale_of: Callable[[Tensor], Tensor] = torch.exp,
    most: float = 100.0,
    lr: float = 1e-3,
    lr_of_scale: float = 0.01,  # more than is usual, so that a second shows what takes others a day
    same_pictures: bool = False,
    watch: Callable[[Towers, World], Row] = lambda towers, world: {},
) -> Training:
    """Train the towers on the whole world at once; each row has the loss, the scale, and the top-1 on new pictures."""
    world, towers = World(noise), Towers(log_scale)
    groups = [{"params": [*towers.image.parameters(), *towers.text.parameters()], "lr": lr}]
    groups.append({"params": [towers.logit_scale], "lr": lr_of_scale})
    optimizer, rows = torch.optim.Adam(groups, betas=(0.9, 0.98)), []
    for step in range(steps):
        x, y = towers.image(world.pictures(1000 if same_pictures else 1000 + step)), towers.text(world.texts)  # (C, 16)
        scale = scale_of(towers.logit_scale)
        value = loss(x, y, scale)
        rows.append({"step": step, "loss": value.item(), "scale": scale.item()} | held_out(towers, world))
        rows[-1] |= watch(towers, world)
        optimizer.zero_grad()
        value.backward()
        rows[-1]["norm"] = torch.stack([p.grad.norm() for p in towers.parameters() if p.grad is not None]).norm().item()
        optimizer.step()
        with torch.no_grad():
            towers.logit_scale.clamp_(max=math.log(most))
    return Training(towers, world, rows)


@torch.no_grad()
def cosines(towers: Towers, world: World, seed: int = 1) -> Tensor:
    """Cosines (C, C) of pictures that are not trained on with all captions."""
    return F.normalize(towers.image(world.pictures(seed)), dim=1) @ F.normalize(towers.text(world.texts), dim=1).T


@torch.no_grad()
def held_out(towers: Towers, world: World) -> Row:
    cosine, labels = cosines(towers, world), torch.arange(CONCEPTS)
    value = F.cross_entropy(towers.logit_scale.exp() * cosine, labels).item()
    return {"held-out loss": value, "top-1": (cosine.argmax(dim=1) == labels).double().mean().item()}


# --- the room of the loss ---------------------------------------------------------------------------------------------


def logits_of(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T  # (N, N)


def without_maximum(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    z = logits_of(x, y, scale).half()  # as under mixed precision
    rows, columns = z.exp().sum(dim=1).log(), z.exp().sum(dim=0).log()
    return ((rows + columns) / 2 - z.diagonal()).float().mean()


def suddenly_nan() -> list[Row]:
    """Some steps up to the first loss that is not finite, and two more."""

    def watch(towers: Towers, world: World) -> Row:
        return {"largest logit": (towers.logit_scale.exp() * cosines(towers, world, seed=1000)).max().item()}

    rows = train(without_maximum, steps=120, same_pictures=True, watch=watch).rows
    last = next(row["step"] for row in rows if not math.isfinite(row["loss"]))
    return [row for row in rows[: int(last) + 3] if row["step"] % 10 == 0 or row["step"] >= last - 2]


def sure_of_itself(steps: int) -> Training:
    """No clamp, and few pictures that are seen again and again."""
    return train(steps=steps, noise=0.8, most=math.inf, same_pictures=True, lr_of_scale=0.06)


def high_floor(steps: int) -> Training:
    return train(scale_of=lambda log_scale: log_scale, steps=steps, lr=3e-4)


def slow_start(steps: int) -> dict[str, Training]:
    """The start is e to the power of 1; beside it the paper's."""
    return {name: train(log_scale=start, steps=steps, lr=3e-4) for name, start in (("?", 1.0), ("right", START))}


def soft_targets(x: Tensor, y: Tensor) -> Tensor:
    """From the features as they are, (N, D) and not normalised; no gradient goes through the targets."""
    return (TEMPERATURE * LENGTH**2 * (x @ x.T + y @ y.T) / 2).softmax(dim=1).detach()  # (N, N)


def flat(steps: int) -> list[Row]:
    """The targets are made of the features that are trained, which are not normalised."""

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        z, targets = LENGTH**2 / TEMPERATURE * x @ y.T, soft_targets(x, y)
        return (F.cross_entropy(z, targets) + F.cross_entropy(z.T, targets.T)) / 2

    @torch.no_grad()
    def watch(towers: Towers, world: World) -> Row:
        x, y = towers.image(world.pictures(1)), towers.text(world.texts)
        alike = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
        others = (alike.sum() - alike.trace()) / (CONCEPTS * (CONCEPTS - 1))
        targets = soft_targets(x, y)
        return {"alike": others.item(), "entropy": -torch.xlogy(targets, targets).sum(dim=1).mean().item()}

    return train(loss, steps=steps, watch=watch).rows


def two_losses(steps: int) -> list[Row]:
    """Both softmaxes run over the same axis: the transposed matrix is not given the other `dim`."""
    halves: list[Row] = []

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        z = logits_of(x, y, scale)
        image, text = -z.log_softmax(dim=1).diagonal().mean(), -z.T.log_softmax(dim=0).diagonal().mean()
        halves.append({"picture → text": image.item(), "text → picture": text.item()})
        return (image + text) / 2

    rows = train(loss, steps=steps).rows
    return [row | half for row, half in zip(rows, halves, strict=True)]


def bright_columns(steps: int) -> Tensor:
    """The softmax (64, 64) of rows after a training in which four workers of 16 pairs count their labels from 0."""

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        labels = torch.arange(CONCEPTS // 4).repeat(4)
        return F.cross_entropy(logits_of(x, y, scale), labels)

    done = train(loss, steps=steps)
    return (done.towers.logit_scale.exp() * cosines(done.towers, done.world)).softmax(dim=1).detach()


def easy_start(steps: int) -> dict[str, list[float]]:
    """The loss in batches of 16 of which the gradients are added up, and in one of 64."""

    def accumulated(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        parts = zip(x.split(16), y.split(16), strict=True)
        return torch.stack([minclip.clip_loss(*part, scale) for part in parts]).mean()

    ways = {"?": accumulated, "right": right_loss}
    return {name: train(loss, steps=steps).column("loss") for name, loss in ways.items()}


def stairs() -> dict[str, Tensor]:
    """The share 1 − p that a pair has left, (K,), and the length of its gradient |p − 1|: exact, and in bfloat16."""
    left = torch.logspace(-5, 0, 400, dtype=torch.float64)[:-1]
    p = (1 - left).bfloat16()
    return {"left": left, "exact": left, "?": (p - 1).abs().double()}


def second_machine(steps: int, workers: int) -> list[Row]:
    """Each worker takes the gradient for its own rows only: what it gathered from the others is cut off."""

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        own, parts = torch.arange(CONCEPTS).chunk(workers), []
        for rows in own:
            gathered = y.detach().clone()
            gathered[rows] = y[rows]
            z = logits_of(x[rows], gathered, scale)  # (N / W, N)
            back = logits_of(y[rows], x.detach().index_copy(0, rows, x[rows]), scale)
            parts.append((F.cross_entropy(z, rows) + F.cross_entropy(back, rows)) / 2)
        return torch.stack(parts).mean()

    return train(loss, steps=steps).rows


# --- the room of the data ---------------------------------------------------------------------------------------------


def neighbours() -> list[tuple[list[str], float]]:
    """The cosine of Noto's cat with the first of some texts, read in one batch, pooled at the last place."""
    model, preprocess, tokenizer = minclip.load()
    picture = Image.open(Path(__file__).parent / "noto" / "cat.png")
    image = evaluate.image_features(model, preprocess.pixels(picture)[None])  # (1, E)
    long = "a man with curly hair and light skin tone"
    batches = [["cat"], ["cat", "dog"], ["cat", long], ["cat", "dog"], ["cat", long]]
    return [(texts, (image @ last_place(model, tokenizer, texts)[0]).item()) for texts in batches]


@torch.no_grad()
def last_place(model: minclip.CLIP, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Features (B, E) of texts at the last place of the batch, which is padding for all but the longest."""
    tokens = tokenizer(texts, model.config.context_length)
    tokens = tokens[:, : tokens.argmax(dim=1).max() + 1]
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]  # (B, T, D)
    x = model.ln_final(model.transformer(x))[:, -1]
    return F.normalize(x @ model.text_projection, dim=1)


class Leak(NamedTuple):
    found: Tensor  # (Q,) bool: the group of the nearest training picture is the right one
    distance: Tensor  # (Q,): to that picture, the root of the mean square, in levels of 255
    groups: int  # to choose from


def twice_as_good() -> Leak:
    """Emoji by their groups, such as "Food & Drink"; every third is in the folder twice, the second time as a JPEG."""
    pairs = load_artist(data.OPENMOJI, data.Preprocess(24))
    codes = [origin.codes for origin in pairs.origins if isinstance(origin, data.Emoji)]
    chosen = [i for i, own in enumerate(codes) if is_basic(own) and emoji_group(own)]
    assert isinstance(pairs.images, Tensor)
    originals = pairs.images[chosen]  # (P, 3, R, R) uint8
    names = sorted({str(emoji_group(codes[i])) for i in chosen})
    labels = torch.tensor([names.index(str(emoji_group(codes[i]))) for i in chosen])
    pixels = torch.cat([originals, torch.stack([saved_again(picture) for picture in originals[::3]])])
    labels, pixels = torch.cat([labels, labels[::3]]), pixels.flatten(1).float()
    # Files are chosen, not pictures: here is the bug.
    is_test = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.2
    distance, nearest = (torch.cdist(pixels[is_test], pixels[~is_test]) / pixels.shape[1] ** 0.5).min(dim=1)
    return Leak(labels[~is_test][nearest] == labels[is_test], distance, len(names))


def saved_again(picture: Tensor) -> Tensor:
    """A picture (3, R, R) uint8 after a round trip through a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90, subsampling=0)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)


# --- the room of the evaluation ---------------------------------------------------------------------------------------


def old_prompts(steps: int) -> list[Row]:
    """Log as "zero-shot" the top-1 with captions that were encoded before the first step."""
    with torch.no_grad():
        world, towers = World(0.3), Towers()
        prompts = F.normalize(towers.text(world.texts), dim=1)  # (C, 16)

    @torch.no_grad()
    def watch(towers: Towers, world: World) -> Row:
        pictures = F.normalize(towers.image(world.pictures(1)), dim=1)
        right = (pictures @ prompts.T).argmax(dim=1) == torch.arange(CONCEPTS)
        return {"zero-shot": right.double().mean().item()}

    return train(steps=steps, watch=watch).rows


def perfect(steps: int) -> list[Row]:
    """A text tower whose last layer is zero, for good; a rank counts the captions that are *better* than the own."""
    world, towers = World(0.1), Towers()
    towers.text = tower(spread=0, level=0)
    optimizer, rows = torch.optim.Adam([*towers.image.parameters(), towers.logit_scale], lr=2e-3), []
    for step in range(steps):
        x, y = towers.image(world.pictures(1000 + step)), towers.text(world.texts)
        value = right_loss(x, y, towers.logit_scale.exp())
        cosine = cosines(towers, world)
        rank = (cosine > cosine.diagonal()[:, None]).sum(dim=1)  # (C,)
        rows.append(
            {"step": step, "loss": value.item()} | {f"top-{k}": (rank < k).double().mean().item() for k in (1, 5)}
        )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return rows


def scores(pictures: int, seed: int) -> tuple[Tensor, Tensor]:
    """How near pictures are to their nearest label, (P,), and whether it is right, (P,) bool: barely related."""
    generator = torch.Generator().manual_seed(seed)
    is_right = torch.arange(pictures) % 2 == 0
    return torch.randn(pictures, generator=generator) + 0.3 * is_right, is_right


def accuracies(scores: Tensor, is_right: Tensor, thresholds: Tensor) -> Tensor:
    """The share of pictures for which each threshold decides correctly: (thresholds,)."""
    return ((scores >= thresholds[:, None]) == is_right).double().mean(dim=1)
