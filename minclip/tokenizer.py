"""Byte-level byte-pair encoding, as CLIP uses it, with the training that other CLIPs leave out.

A text is cleaned, lower-cased and cut into words by a pattern. Every word becomes a list of bytes, the last of which
carries the mark `</w>`. Training counts neighbouring pairs and merges the most frequent pair into a new symbol, again
and again; encoding replays these merges, the earliest learned first. By hand, for the word `aaabdaaabac`:

    a a a b d a a a b a c</w>      the most frequent pair is (a, a), 4 times
    aa a b d aa a b a c</w>        (a, b) and (aa, a) occur twice each; the first in sort order wins
    aa ab d aa ab a c</w>          (aa, ab) occurs twice
    aaab d aaab a c</w>            no pair occurs twice any more

Sources: Sennrich et al. 2016 (BPE, arXiv:1508.07909); Radford et al. 2021 (CLIP, arXiv:2103.00020), section 2.4.
"""

import gzip
import html
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import ftfy
import regex
import torch

from minclip.files import replacing

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
# This pattern finds the same words in a cleaned text that is ASCII, with the standard library's faster engine.
ASCII_WORD = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", re.ASCII
)
# OpenAI's file lists more merges than its models use, which are 49,152 − 256 − 2, and does not say so.
OPENAI_HEADER, OPENAI_MERGES = "bpe_simple_vocab_16e6", 48_894
MAX_BYTES = 8 * 2**20  # size limit of an uncompressed merges file; OpenAI's has 3 million bytes

Pair = tuple[str, str]


def byte_alphabet() -> dict[int, str]:
    """A printable character for each of the 256 bytes, in the order of CLIP's vocabulary.

    Visible Latin-1 characters represent themselves; the others (white space, control) move to U+0100 and above, so that
    a merges file can separate symbols by a space and lines by a line feed.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


BYTE_TO_CHAR = byte_alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def clean(text: str) -> str:
    """Mend broken Unicode, unescape HTML twice, which scraped captions need, fold white space, and lower-case."""
    # Nothing is broken or escaped in printable ASCII text without an ampersand.
    if not text.isascii() or not text.isprintable() or "&" in text:
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def split_words(text: str) -> list[str]:
    """The words of a text, cleaned."""
    text = clean(text)
    return (ASCII_WORD if text.isascii() else WORD).findall(text)


def to_symbols(word: str) -> tuple[str, ...]:
    """One symbol for each byte of a word, the last one marked: `("n", "Ã", "©</w>")` for `"né"`."""
    *head, last = (BYTE_TO_CHAR[byte] for byte in word.encode())
    return *head, last + END_OF_WORD


def merge_pair(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Merge every occurrence of `pair`, from the left."""
    left, right = pair
    merged: list[str] = []
    follows = False  # whether the last symbol is a `left` that may be merged with the next one
    for symbol in symbols:
        if follows and symbol == right:
            merged[-1] = left + right
            follows = False
        else:
            merged.append(symbol)
            follows = symbol == left
    return tuple(merged)


def learn_merges(word_counts: dict[str, int], n_merges: int) -> list[Pair]:
    """Learn up to `n_merges` merges, until no pair occurs twice; ties go to the pair that is first in sort order."""
    words = [to_symbols(word) for word in word_counts]
    counts = list(word_counts.values())
    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)

    def count(word: int, sign: int) -> None:
        for pair in pairwise(words[word]):
            pair_counts[pair] += sign * counts[word]
            words_with[pair].add(word)

    for word in range(len(words)):
        count(word, +1)
    merges: list[Pair] = []
    while len(merges) < n_merges and pair_counts:
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
        if pair_counts[best] < 2:
            break
        merges.append(best)
        for word in words_with.pop(best):  # only these words change
            count(word, -1)
            words[word] = merge_pair(words[word], best)
            count(word, +1)
        del pair_counts[best]
    return merges


class Tokenizer:
    """Turns text into token ids and back. Vocabulary: 256 bytes, 256 bytes that end a word, the merges, start, end."""

    def __init__(self, merges: Iterable[Pair]) -> None:
        self.merges = [(left, right) for left, right in merges]
        self.rank = {pair: rank for rank, pair in enumerate(self.merges)}
        bytes_alone = list(BYTE_TO_CHAR.values())
        bytes_ending = [char + END_OF_WORD for char in bytes_alone]
        symbols = [*bytes_alone, *bytes_ending, *("".join(pair) for pair in self.merges), START, END]
        self.symbol_of_id = symbols
        self.id_of_symbol = {symbol: i for i, symbol in enumerate(symbols)}
        self.start_id, self.end_id = len(symbols) - 2, len(symbols) - 1
        self.ids_of_word: dict[str, list[int]] = {START: [self.start_id], END: [self.end_id]}

    @property
    def vocab_size(self) -> int:
        return len(self.symbol_of_id)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from `texts` until the vocabulary has `vocab_size` entries, or no pair occurs twice.

        Raises ValueError if `vocab_size` is under 514, since 2 × 256 bytes, start and end are always there.
        """
        n_merges = vocab_size - 2 * len(BYTE_TO_CHAR) - 2
        if n_merges < 0:
            raise ValueError(f"vocab_size is {vocab_size}; the bytes, start and end alone need 514")
        word_counts = Counter(word for text in texts for word in split_words(text) if word not in (START, END))
        return cls(learn_merges(word_counts, n_merges))

    def _word_to_ids(self, word: str) -> list[int]:
        """The ids of a new word; they are stored, because words are repeated."""
        symbols, never = to_symbols(word), len(self.merges)
        while len(symbols) > 1:
            best = min([self.rank.get(pair, never) for pair in pairwise(symbols)])
            if best == never:
                break
            symbols = merge_pair(symbols, self.merges[best])
        self.ids_of_word[word] = [self.id_of_symbol[symbol] for symbol in symbols]
        return self.ids_of_word[word]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end."""
        ids: list[int] = []
        for word in split_words(text):
            ids += self.ids_of_word.get(word) or self._word_to_ids(word)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The cleaned text, without the white space that CLIP does not keep; bytes that are not UTF-8 become U+FFFD."""
        text = bytearray()
        for i in ids:
            symbol = self.symbol_of_id[i]
            if i in (self.start_id, self.end_id):
                text += symbol.encode()
                continue
            text += bytes(CHAR_TO_BYTE[char] for char in symbol.removesuffix(END_OF_WORD))
            if symbol.endswith(END_OF_WORD):
                text += b" "
        return text.decode(errors="replace").strip()

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids (B, T) int64: start, text, end, then zeros up to the longest text of this batch.

        Texts longer than `context_length` are truncated and keep their end token. Padding needs no mask: the text tower
        reads its feature at the end token, which under a causal mask sees nothing after itself.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:
            raise ValueError("no text to tokenize: the list is empty")
        if context_length is not None and context_length < 2:
            raise ValueError(f"context_length is {context_length}; start and end alone need 2")
        body = None if context_length is None else context_length - 2
        rows = [torch.tensor([self.start_id, *self.encode(text)[:body], self.end_id]) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def to_text(self) -> str:
        """The merges in OpenAI's format: a version line, then one pair per line."""
        return "\n".join(["#version: 0.2", *(" ".join(pair) for pair in self.merges)]) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str | Path) -> "Tokenizer":
        """Read what `to_text` wrote. Raises ValueError, with `source` and the line, for any other text."""
        header, *lines = text.rstrip("\n").split("\n")
        if "#version" not in header:
            raise ValueError(f"{source} is not a merges file: its first line is {header[:60]!r}, not '#version: …'")
        if OPENAI_HEADER in header:
            lines = lines[:OPENAI_MERGES]
        return cls(_parse_merge(line, f"{source}, line {number}") for number, line in enumerate(lines, start=2))

    def save(self, path: str | Path) -> None:
        """Write `to_text` to a file, compressed if `path` ends in .gz."""
        content = self.to_text().encode()
        with replacing(path) as temporary:
            temporary.write_bytes(gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a file of `save`, OpenAI's `bpe_simple_vocab_16e6.txt.gz`, or a Hugging Face `merges.txt`.

        Raises ValueError, with the line, if the file is not a list of merges, and OSError if it cannot be read.
        """
        with open(path, "rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
        try:
            with gzip.open(path) if is_compressed else open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            text = content.decode()
        except (OSError, EOFError, ValueError, zlib.error) as error:  # damaged gzip, truncated gzip, not UTF-8
            raise ValueError(f"{path} is not a merges file: {error}") from error
        return cls.from_text(text, path)


def _parse_merge(line: str, where: str) -> Pair:
    left, _, right = line.partition(" ")
    characters = (left + right).removesuffix(END_OF_WORD)
    if not left or not right or not set(characters) <= CHAR_TO_BYTE.keys():
        raise ValueError(f"{where}: {line[:60]!r} is not a merge (two symbols separated by a space)")
    return left, right
