"""Time of the fused CLIP loss beside plain PyTorch, open_clip and its floor: python -m minclip_kernels.bench 4096 8192

Forward and backward in float32 on the CPU, every contender in turn, the ratio pair by pair; medians. The floor is the
four bare products that the method needs, by the vendor's library. Prints CSV.
"""

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import fused_clip_loss


def arange_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Both cross-entropies over the whole matrix, as the paper writes it (figure 3)."""
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def contenders(count: int, width: int) -> dict[str, Callable[[], object]]:
    """Name -> one forward and backward, or the products of one, on the same random features (count, width)."""
    image, text = (torch.randn(count, width, requires_grad=True) for _ in range(2))
    scale = torch.tensor(14.3, requires_grad=True)

    def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(image, text, scale), (image, text, scale))

    logits, product = torch.empty(count, count), torch.empty(count, width)

    @torch.no_grad()
    def products() -> None:
        torch.mm(image, text.T, out=logits)  # forward
        torch.mm(image, text.T, out=logits)  # again, backward
        torch.mm(logits, text, out=product)
        torch.mm(logits.T, image, out=product)

    result = {"fused": step(fused_clip_loss), "arange": step(arange_loss), "four products": products}
    try:
        from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"open_clip is left out: {error}", file=sys.stderr)
        return result
    theirs = ClipLoss()
    return result | {"open_clip": step(lambda x, y, s: theirs(F.normalize(x, dim=1), F.normalize(y, dim=1), s))}


def measure(count: int, width: int, rounds: int) -> list[dict[str, object]]:
    functions = contenders(count, width)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(times, seconds["fused"], strict=True))
        milliseconds = [1e3 * value for value in (statistics.median(times), min(times), max(times))]
        numbers = dict(zip(("median_ms", "min_ms", "max_ms"), (f"{value:.2f}" for value in milliseconds), strict=True))
        rows.append({"N": count, "D": width, "what": name, **numbers, "over_fused": f"{ratio:.2f}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="+", type=int, help="how many pairs, N")
    parser.add_argument("--width", type=int, default=512, help="of the features, D (default: 512)")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each (default: 5)")
    arguments = parser.parse_args()
    setting = {"date": time.strftime("%F"), "device": f"{platform.machine()} CPU", "threads": torch.get_num_threads()}
    setting |= {"torch": torch.__version__, "dtype": "float32"}
    columns = [*setting, "N", "D", "what", "median_ms", "min_ms", "max_ms", "over_fused"]
    writer = csv.DictWriter(sys.stdout, columns)
    writer.writeheader()
    for count in arguments.count:
        writer.writerows(setting | row for row in measure(count, arguments.width, arguments.rounds))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
