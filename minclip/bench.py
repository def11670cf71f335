"""`minclip bench`: the losses (minclip_kernels.bench), a training step and the tokenizer, beside those of others."""

import argparse
import ast
import random
import re
import statistics
import sysconfig
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from minclip_kernels.bench import command as loss_command
from minclip_kernels.bench import first_hour
from minclip_kernels.bench.records import describe, write_json
from minclip_kernels.bench.report import align
from minclip_kernels.bench.worker import peak, reset_peak

from minclip import data
from minclip.model import CLIP, MAX_LOGIT_SCALE, PRESETS, CLIPConfig
from minclip.tokenizer import Tokenizer
from minclip.train import TrainConfig, make_optimizer, train_step

THEIR_TOKENS = 77  # open_clip pads every caption to its context length
SENTENCES = 10_000
SENTENCE = re.compile(r"[A-Z][^.!?]*[.!?](?=\s+[A-Z]|\s*$)")
NEEDS_OPEN_CLIP = "minclip bench {} compares with open_clip, which is not installed: pip install open_clip_torch"
Timed = dict[str, list[float]]  # contender: seconds


def add_bench(commands) -> None:
    bench = commands.add_parser("bench", help="how fast are the losses, a training step, the tokenizer?")
    parts = bench.add_subparsers(required=True, metavar="loss | first-hour | train | tokenizer")
    for name, module in (("loss", loss_command), ("first-hour", first_hour)):
        part = _add_part(parts, name, module.run, module.DESCRIPTION)
        module.add_arguments(part)
    part = _add_part(parts, "train", train_command, "Images per second and peak memory of a step, beside open_clip.")
    part.add_argument("--model", choices=sorted(PRESETS), default="emoji", help="of both (default: emoji)")
    part.add_argument("--batch-size", type=int, default=128, help="(default: 128)")
    part.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    part.add_argument("--seconds", type=float, default=60.0, help="of alternating steps (default: 60)")
    part.add_argument("--out", type=Path, default=Path("bench/train.json"), help="(default: bench/train.json)")
    part = _add_part(
        parts, "tokenizer", tokenizer_command, "Tokens per second, beside SimpleTokenizer and Hugging Face."
    )
    part.add_argument("--rounds", type=int, default=7, help="over each list of texts (default: 7)")
    part.add_argument("--out", type=Path, default=Path("bench/tokenizer.json"), help="(default: bench/tokenizer.json)")


def _add_part(parts, name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    part = parts.add_parser(
        name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    part.set_defaults(command=function)
    return part


def _report(rows: Sequence[dict[str, Any]], device: str, out: Path) -> None:
    """The rows as a table, and with the environment as JSON."""
    print(align([list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]))
    out.parent.mkdir(parents=True, exist_ok=True)
    packages = ["minclip", "open_clip_torch", "transformers", "tokenizers", "ftfy", "regex", "emoji"]
    write_json(out, {"environment": describe(device, packages), "rows": list(rows)})
    print(out)


def _cell(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.1f}" if value < 1000 and isinstance(value, float) else f"{value:,.0f}"


# --- train ------------------------------------------------------------------------------------------------------------


def train_command(arguments: argparse.Namespace) -> int:
    if arguments.batch_size < 2 or arguments.seconds <= 0:
        given = f"--batch-size {arguments.batch_size}, --seconds {arguments.seconds}"
        raise ValueError(f"{given}: expected a batch of at least 2, and a time of more than 0")
    device = loss_command.choose_device(arguments.device)
    rows = measure_training(PRESETS[arguments.model], arguments.batch_size, device, arguments.seconds)
    _report(
        [{"contender": row.pop("contender"), "model": arguments.model, **row} for row in rows], device, arguments.out
    )
    return 0


def measure_training(config: CLIPConfig, batch_size: int, device: str, seconds: float) -> list[dict[str, Any]]:
    """Steps of both models on the same pictures and captions, in turns, for about `seconds` after one that warms up."""
    steps = training_steps(config, batch_size, device)
    times: Timed = {name: [] for name in steps}
    memory: dict[str, float | None] = {}
    for name, step in steps.items():
        step()  # the optimizer makes its state
        before = reset_peak(device)
        step()
        after = peak(device)
        memory[name] = None if before is None or after is None else after - before
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times[next(iter(steps))]:
        for name, step in steps.items():
            times[name].append(_seconds(step, device))
    return [
        {
            "contender": name,
            "images/s": batch_size / statistics.median(times[name]),
            "lowest": batch_size / max(times[name]),
            "highest": batch_size / min(times[name]),
            "steps": len(times[name]),
            "MB above model and optimizer": memory[name] if memory[name] is not None else "unknown",
            "batch size": batch_size,
        }
        for name in steps
    ]


def _seconds(step: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def training_steps(config: CLIPConfig, batch_size: int, device: str) -> dict[str, Callable[[], Any]]:
    """A step of ours and one of open_clip's model of the same sizes, on the same batch of emoji, as functions.

    Raises ModuleNotFoundError without open_clip.
    """
    torch.manual_seed(0)
    ours, theirs = CLIP(config).to(device).train(), open_clip_model(config).to(device).train()
    pairs, _ = data.load_emoji(config.image_resolution)
    tokenizer = Tokenizer.train(pairs.captions, config.vocab_size)
    captions = torch.arange(batch_size) % len(pairs)
    images = data.normalize(pairs.images[pairs.image_of_caption[captions]]).to(device)
    tokens = tokenizer([pairs.captions[i] for i in captions.tolist()], config.context_length).to(device)
    settings = TrainConfig(batch_size=batch_size)
    our_optimizer, their_optimizer = make_optimizer(ours, settings), make_optimizer(theirs, settings)  # type: ignore[arg-type]
    padded = F.pad(tokens, (0, THEIR_TOKENS - tokens.shape[1]))
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    loss = ClipLoss()

    def their_step() -> None:
        image_features, text_features, scale = theirs(images, padded)
        their_optimizer.zero_grad()
        loss(image_features, text_features, scale).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), settings.max_grad_norm)
        their_optimizer.step()
        with torch.no_grad():
            theirs.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    return {"minclip": lambda: train_step(ours, our_optimizer, images, tokens, settings), "open_clip": their_step}


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


# --- tokenizer --------------------------------------------------------------------------------------------------------


def tokenizer_command(arguments: argparse.Namespace) -> int:
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; it must be at least 1")
    try:
        from open_clip.tokenizer import default_bpe  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(NEEDS_OPEN_CLIP.format("tokenizer")) from error
    texts = {"emoji captions": list(data.emoji_captions().values()), "English sentences": english_sentences()}
    rows = []
    for name, lines in texts.items():
        rows += measure_tokenizers(tokenizers(default_bpe()), name, lines, arguments.rounds)
    _report(rows, "cpu", arguments.out)
    return 0


def tokenizers(merges: str) -> dict[str, Callable[[], Callable[[list[str]], list[list[int]]]]]:
    """For each contender how to make a new one from OpenAI's file of merges; it maps texts to ids.

    openai/CLIP is on no package index; open_clip's SimpleTokenizer is its class.
    """
    from open_clip.tokenizer import SimpleTokenizer  # pyright: ignore[reportMissingImports]

    def ours() -> Callable[[list[str]], list[list[int]]]:
        tokenizer = Tokenizer.load(merges)
        return lambda lines: [tokenizer.encode(line) for line in lines]

    def simple() -> Callable[[list[str]], list[list[int]]]:
        tokenizer = SimpleTokenizer(merges)
        return lambda lines: [tokenizer.encode(line) for line in lines]

    def hugging_face() -> Callable[[list[str]], list[list[int]]]:
        from transformers import CLIPTokenizer  # since transformers 5 CLIPTokenizerFast is another name for it

        same = Tokenizer.load(merges)
        tokenizer = CLIPTokenizer(vocab=dict(same.id_of_symbol), merges=same.merges)  # type: ignore[arg-type]
        return lambda lines: tokenizer(lines, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]

    return {"minclip": ours, "open_clip SimpleTokenizer": simple, "Hugging Face CLIPTokenizerFast": hugging_face}


def measure_tokenizers(
    makers: dict[str, Callable[[], Callable[[list[str]], list[list[int]]]]], name: str, lines: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Tokens per second on `lines`, in turns: the first time, when no word is known, and again.

    "same ids" counts the texts that get the ids of the first contender.
    """
    encoders = {contender: make() for contender, make in makers.items()}
    times: Timed = {contender: [] for contender in makers}
    ids: dict[str, list[list[int]]] = {}
    for _ in range(1 + rounds):
        for contender, encode in encoders.items():
            start = time.perf_counter()
            ids[contender] = encode(lines)
            times[contender].append(time.perf_counter() - start)
    expected = ids[next(iter(makers))]
    tokens = sum(map(len, expected))
    return [
        {
            "contender": contender,
            "texts": name,
            "number": len(lines),
            "tokens": tokens,
            "tokens/s, first time": tokens / times[contender][0],
            "tokens/s, again": tokens / statistics.median(times[contender][1:]),
            "same ids": sum(a == b for a, b in zip(ids[contender], expected, strict=True)),
        }
        for contender in makers
    ]


def english_sentences(number: int = SENTENCES) -> list[str]:
    """Sentences from the documentation strings of Python's standard library, shuffled, always the same ones.

    English that is on every machine; another version of Python has a few others.
    """
    root, found = Path(sysconfig.get_path("stdlib")), dict[str, None]()
    for path in sorted(root.rglob("*.py")):
        if not {"test", "tests", "site-packages", "dist-packages"} & set(path.relative_to(root).parts):
            found |= dict.fromkeys(_sentences(path))
    sentences = list(found)
    random.Random(0).shuffle(sentences)
    return sentences[:number]


def _sentences(path: Path) -> list[str]:
    """The sentences of 4 to 40 words in the documentation strings of a source file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their escapes
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # files for other versions, and templates
        return []
    documented = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    paragraphs = (part for node in documented for part in (ast.get_docstring(node) or "").split("\n\n"))
    found = (sentence for part in paragraphs for sentence in SENTENCE.findall(" ".join(part.split())))
    return [sentence for sentence in found if 4 <= len(sentence.split()) <= 40]
