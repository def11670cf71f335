"""`minclip bench tokenizer`: tokens per second, beside SimpleTokenizer and Hugging Face's tokenizer."""

import argparse
import ast
import random
import re
import statistics
import sysconfig
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minclip import data
from minclip.commands.bench import NEEDS_OPEN_CLIP, report
from minclip.tokenizer import Tokenizer

DESCRIPTION = "Tokens per second, beside SimpleTokenizer and Hugging Face."
SENTENCES = 10_000
SENTENCE = re.compile(r"[A-Z][^.!?]*[.!?](?=\s+[A-Z]|\s*$)")
Encode = Callable[[list[str]], list[list[int]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="repetitions of each list of texts (default: 7)")
    out = Path("bench/tokenizer.json")
    add("--out", type=Path, default=out, help=f"file of the results (default: {out})")


def run(arguments: argparse.Namespace) -> int:
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
    report(rows, "cpu", arguments.out)
    return 0


def tokenizers(merges: str) -> dict[str, Callable[[], Encode]]:
    """Functions that make a new tokenizer of each contender from OpenAI's file of merges.

    openai/CLIP is on no package index; open_clip's SimpleTokenizer is the same class.
    """
    from open_clip.tokenizer import SimpleTokenizer  # pyright: ignore[reportMissingImports]

    def ours() -> Encode:
        tokenizer = Tokenizer.load(merges)
        return lambda lines: [tokenizer.encode(line) for line in lines]

    def simple() -> Encode:
        tokenizer = SimpleTokenizer(merges)
        return lambda lines: [tokenizer.encode(line) for line in lines]

    def hugging_face() -> Encode:
        # Since transformers 5, CLIPTokenizerFast is another name for this class.
        from transformers import CLIPTokenizer

        same = Tokenizer.load(merges)
        tokenizer = CLIPTokenizer(vocab=dict(same.id_of_symbol), merges=same.merges)  # type: ignore[arg-type]
        return lambda lines: tokenizer(lines, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]

    return {"minclip": ours, "open_clip SimpleTokenizer": simple, "Hugging Face CLIPTokenizerFast": hugging_face}


def measure_tokenizers(
    makers: dict[str, Callable[[], Encode]], name: str, lines: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Measure tokens per second on `lines`, in turns: the first time, when no word is known yet, and again.

    "same ids" counts the texts that get the same ids as from the first contender.
    """
    encoders = {contender: make() for contender, make in makers.items()}
    times: dict[str, list[float]] = {contender: [] for contender in makers}
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
    """Sentences from the docstrings of Python's standard library, shuffled, always the same ones.

    This English is on every machine; versions of Python differ in a few sentences.
    """
    root, found = Path(sysconfig.get_path("stdlib")), dict[str, None]()
    for path in sorted(root.rglob("*.py")):
        if not {"test", "tests", "site-packages", "dist-packages"} & set(path.relative_to(root).parts):
            found |= dict.fromkeys(_sentences(path))
    sentences = list(found)
    random.Random(0).shuffle(sentences)
    return sentences[:number]


def _sentences(path: Path) -> list[str]:
    """The sentences of 4 to 40 words in the docstrings of a source file."""
    try:
        with warnings.catch_warnings():
            # Old files have invalid escapes, which do not matter here.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # The file is a template, or meant for another version of Python.
        return []
    documented = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    paragraphs = (part for node in documented for part in (ast.get_docstring(node) or "").split("\n\n"))
    found = (sentence for part in paragraphs for sentence in SENTENCE.findall(" ".join(part.split())))
    return [sentence for sentence in found if 4 <= len(sentence.split()) <= 40]
