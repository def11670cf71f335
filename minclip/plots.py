"""The figures that a run leaves behind, and those of `classify --plot` and `search --plot`.

All of them can be read in grey as well: marks and line styles repeat what the colours say.
"""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minclip import evaluate, probe
from minclip.data import Pairs
from minclip.files import replacing
from minclip.frozen import FrozenTower
from minclip.images import Origin
from minclip.metrics import Row
from minclip.model import CLIP
from minclip.tokenizer import Tokenizer

# DejaVu, which matplotlib ships, has no Chinese, Japanese or Korean letters; these are the usual fonts that do.
CJK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(font for font in CJK_FONTS if font in _INSTALLED)],
    "text.parse_math": False,  # "$5" in a caption is not a formula
}
SHOWN_PAIRS, SHOWN_QUERIES, SHOWN_PICTURES = 16, 6, 5  # in the similarity matrix and the retrieval grid of a run
SHOWN_SIZE = 144  # pixels of a picture in a figure
COSINE_COLOURS = {"cmap": "viridis", "vmin": -1, "vmax": 1}


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _save(figure: Figure, path: str | Path, origins: Sequence[Origin] = ()) -> None:
    """Write the figure, with the credits that its pictures require."""
    credits = dict.fromkeys(origin.credit for origin in origins if origin.credit)
    if credits:
        figure.supxlabel("; ".join(credits), fontsize=7, color="0.35")
    with replacing(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(temporary)
    if any("missing from font" in str(warning.message) for warning in caught):
        message = "figures show boxes for letters that no font here has: install one that has them, say Noto Sans CJK"
        warnings.warn(message, stacklevel=2)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _show(axes: Axes, origin: Origin) -> None:
    axes.imshow(origin.open(SHOWN_SIZE))
    axes.set_xticks([])
    axes.set_yticks([])


def _sample(pairs: Pairs, n: int) -> Pairs:
    """Up to n pictures, always the same ones, each with its first caption."""
    pictures = torch.randperm(len(pairs.origins), generator=torch.Generator().manual_seed(0))[:n].tolist()
    chosen = pairs.select(pictures)
    owners = chosen.image_of_caption.tolist()
    first = [owners.index(picture) for picture in range(len(pictures))]
    return replace(chosen, captions=[chosen.captions[i] for i in first], image_of_caption=torch.arange(len(pictures)))


def similarity_sample(model: CLIP, tokenizer: Tokenizer, pairs: Pairs) -> torch.Tensor:
    """Cosines (K, K) of a few pairs, always the same ones; rows are captions, columns pictures."""
    sample = _sample(pairs, SHOWN_PAIRS)
    texts = evaluate.text_features(model, tokenizer, sample.captions)
    return texts @ evaluate.image_features(model, sample.images).T


def draw_run(
    model: CLIP, tokenizer: Tokenizer, shown: Pairs, before: torch.Tensor, rows: list[Row], run: Path
) -> list[str]:
    """Draw all figures of a run, and return the names of their files.

    `before` is the `similarity_sample` of `shown` before training, `rows` the metrics.
    """
    plot_loss(rows, run / "loss.png")
    after = similarity_sample(model, tokenizer, shown)
    sample = _sample(shown, SHOWN_PAIRS)
    plot_similarity(before, after, sample.origins, sample.captions, run / "similarity.png")
    asked = _sample(shown, SHOWN_QUERIES)
    queries = evaluate.text_features(model, tokenizer, asked.captions)
    found = evaluate.nearest(evaluate.image_features(model, shown.images), shown.origins, queries, SHOWN_PICTURES)
    right: dict[str, set[Origin]] = {caption: set() for caption in asked.captions}
    for caption, picture in zip(shown.captions, shown.image_of_caption.tolist(), strict=True):
        right.get(caption, set()).add(shown.origins[picture])
    plot_retrieval(asked.captions, found, [right[caption] for caption in asked.captions], run / "retrieval.png")
    figures = ["loss.png", "similarity.png", "retrieval.png"]
    if isinstance(model.visual, FrozenTower):
        return figures
    plot_positions(model.visual.positional_embedding.detach().cpu(), run / "positions.png")
    return [*figures, "positions.png"]


@matplotlib.rc_context(STYLE)
def plot_loss(rows: list[Row], path: str | Path) -> None:
    """Draw the loss against epochs between its floors, and the unseen top-1 where it was measured."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["loss"] for row in rows], color="C0", linewidth=1, label="loss")
    axes.axhline(rows[-1]["untrained"], color="0.3", linestyle="--", label=f"untrained: {rows[-1]['untrained']:.2f}")
    floor = sum(row["floor"] for row in rows) / len(rows)
    axes.axhline(floor, color="0.3", linestyle=":", label=f"floor, given duplicates: {floor:.2f}")
    axes.set(xlabel="epoch", ylabel="contrastive loss (nats)", ylim=(-0.1, None), title="Training")
    measured = [row for row in rows if "unseen_top1" in row]
    if measured:
        right = axes.twinx()
        top1 = [100 * row["unseen_top1"] for row in measured]
        right.plot([row["epoch"] for row in measured], top1, "o-", color="C1", markersize=4, label="unseen top-1")
        right.set(ylabel="unseen top-1 (%)", ylim=(0, 100))
        axes.plot([], [], "o-", color="C1", markersize=4, label="unseen top-1 (right axis)")
    axes.legend(loc="center right", fontsize=8)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def plot_similarity(
    before: torch.Tensor, after: torch.Tensor, origins: Sequence[Origin], captions: Sequence[str], path: str | Path
) -> None:
    """Draw the cosines (K, K) of K pairs before and after training; rows are captions, columns pictures."""
    figure = _figure(11, 4.8)
    K = len(captions)
    left, right = figure.subplots(1, 2)
    for axes, similarity, title in ((left, before, "before training"), (right, after, "after training")):
        axes.imshow(similarity.numpy(), **COSINE_COLOURS)
        axes.set(title=title, xlabel="picture", xticks=[])
        axes.set_yticks(range(K), [_short(caption) for caption in captions] if axes is left else [""] * K, fontsize=7)
        for i, origin in enumerate(origins):
            inset = axes.inset_axes((i / K, -1.02 / K, 1 / K, 0.98 / K))
            _show(inset, origin)
            inset.axis("off")
        axes.xaxis.labelpad = 16
    figure.colorbar(left.images[0], ax=[left, right], label="cosine", shrink=0.8)
    _save(figure, path, origins)


@matplotlib.rc_context(STYLE)
def plot_retrieval(
    queries: Sequence[str],
    found: Sequence[Sequence[tuple[Origin, float]]],
    right: Sequence[set[Origin]] | None,
    path: str | Path,
) -> None:
    """Draw a row for each query: the best pictures as (origin, cosine), those in `right` framed and ticked."""
    columns = max(len(row) for row in found)
    figure = _figure(2.6 + 1.25 * columns, 0.4 + 1.45 * len(queries))
    grid = figure.subplots(len(queries), columns + 1, squeeze=False, width_ratios=[2, *[1] * columns])
    for axes in grid.flat:
        axes.axis("off")
    for row, query in enumerate(queries):
        grid[row][0].text(1, 0.5, textwrap.fill(_short(query), 32), ha="right", va="center", fontsize=10)
        for axes, (origin, cosine) in zip(grid[row][1:], found[row], strict=False):
            _show_found(axes, origin, cosine, is_right=right is not None and origin in right[row])
    figure.suptitle(
        "caption → nearest pictures, with their cosine" + ("; ✓ the right one" if right else ""), fontsize=10
    )
    _save(figure, path, [origin for row in found for origin, _ in row])


def _show_found(axes: Axes, origin: Origin, cosine: float, is_right: bool) -> None:
    axes.axis("on")
    _show(axes, origin)
    axes.set_title(f"{cosine:.2f}" + (" ✓" if is_right else ""), fontsize=9, weight="bold" if is_right else "normal")
    for spine in axes.spines.values():
        spine.set(linewidth=3 if is_right else 0.5, color="black" if is_right else "0.7")


@matplotlib.rc_context(STYLE)
def plot_positions(position_embedding: torch.Tensor, path: str | Path) -> None:
    """Draw the cosine of each patch's learned position (1 + P, D) with all others, one map per patch; ViT, figure 7."""
    positions = torch.nn.functional.normalize(position_embedding[1:].float(), dim=-1)  # without the class token
    side = round(len(positions) ** 0.5)
    maps = (positions @ positions.T).view(side, side, side, side)
    figure = _figure(6, 5.4)
    for row, axes_row in enumerate(figure.subplots(side, side, squeeze=False)):
        for column, axes in enumerate(axes_row):
            axes.imshow(maps[row, column].numpy(), **COSINE_COLOURS)
            axes.set(xticks=[], yticks=[])
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="cosine", shrink=0.8)
    figure.suptitle("Similarity of learned positions: map (r, c) is patch (r, c) against all patches", fontsize=10)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def plot_classes(
    origins: Sequence[Origin],
    labels: Sequence[str],
    cosine: torch.Tensor,
    probability: torch.Tensor,
    path: str | Path,
) -> None:
    """Draw each picture's probabilities over the labels as bars, the cosine written beside each."""
    figure = _figure(7, 0.5 + (0.6 + 0.3 * len(labels)) * len(origins))
    for i, (thumbnail, bars) in enumerate(figure.subplots(len(origins), 2, squeeze=False, width_ratios=[1, 4])):
        _show(thumbnail, origins[i])
        bars.barh(range(len(labels)), probability[i].numpy(), color="C0")
        bars.set_yticks(range(len(labels)), [_short(label) for label in labels])
        bars.invert_yaxis()
        bars.set(xlim=(0, 1.35), xticks=[0, 0.5, 1])
        for row, (p, c) in enumerate(zip(probability[i].tolist(), cosine[i].tolist(), strict=True)):
            bars.text(p + 0.02, row, f"{p:.1%}  (cos {c:.2f})", va="center", fontsize=8)
    figure.axes[-1].set_xlabel("probability among these labels")
    _save(figure, path, origins)


@matplotlib.rc_context(STYLE)
def plot_probe(rows: Sequence[probe.Row], zero_shot: float, chance: float, path: str | Path) -> None:
    """Draw the accuracy of a linear probe and of nearest neighbours against the pictures that they learned from.

    Bars reach from the lowest to the highest draw.
    """
    figure = _figure(7, 4)
    axes = figure.subplots()
    pictures = [row.pictures for row in rows]
    for name, marker, methods in (
        ("linear probe", "o-", [row.linear for row in rows]),
        ("nearest neighbours", "s--", [row.neighbours for row in rows]),
    ):
        mean = [100 * method.mean for method in methods]
        low = [m - 100 * min(method.accuracy) for m, method in zip(mean, methods, strict=True)]
        high = [100 * max(method.accuracy) - m for m, method in zip(mean, methods, strict=True)]
        axes.errorbar(pictures, mean, [low, high], fmt=marker, markersize=4, capsize=3, label=name)
    axes.axhline(100 * zero_shot, color="0.3", linestyle="-.", label=f"zero-shot: {100 * zero_shot:.1f} %")
    axes.axhline(100 * chance, color="0.3", linestyle=":", label=f"chance: {100 * chance:.1f} %")
    axes.set_xscale("log", base=2)
    labels = [f"{row.pictures}\n({row.shots or 'all'})" for row in rows]
    axes.set_xticks(pictures, labels)
    axes.set(xlabel="labelled pictures (at most so many per class)", ylabel="accuracy, mean over classes (%)")
    axes.set(ylim=(0, 100), title="Frozen features")
    axes.legend(loc="upper left", fontsize=8)
    _save(figure, path)
