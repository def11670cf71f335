from collections import Counter
from itertools import pairwise

from minclip.tokenizer import split_words, to_symbols

Pair = tuple[str, str]


def glue(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    glued: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            glued.append(pair[0] + pair[1])
            i += 2
        else:
            glued.append(symbols[i])
            i += 1
    return tuple(glued)


def train_bpe(words: dict[tuple[str, ...], int], n_merges: int) -> list[Pair]:
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pair_counts: Counter[Pair] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pair_counts[pair] += count
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair), default=None)
        if best is None or pair_counts[best] < 2:
            break
        merges.append(best)
        words = {glue(symbols, best): count for symbols, count in words.items()}
    return merges


def encode(text: str, rank: dict[Pair, int], ids: dict[str, int]) -> list[int]:
    found: list[int] = []
    for word in split_words(text):
        symbols = to_symbols(word)
        while known := [pair for pair in pairwise(symbols) if pair in rank]:
            symbols = glue(symbols, min(known, key=rank.__getitem__))
        found += [ids[symbol] for symbol in symbols]
    return found
