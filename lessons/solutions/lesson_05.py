from collections import Counter
from itertools import pairwise

from minclip.tokenizer import CHAR_TO_BYTE, END_OF_WORD

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


def learn_bpe(words: dict[tuple[str, ...], int], n_merges: int) -> list[Pair]:
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


def symbols_to_text(symbols: list[str]) -> str:
    everything = "".join(symbols).replace(END_OF_WORD, " ")
    return bytes(ord(" ") if char == " " else CHAR_TO_BYTE[char] for char in everything).decode().strip()


def fit_to_context(ids: list[int], start_id: int, end_id: int, length: int) -> list[int]:
    row = [start_id, *ids[: length - 2], end_id]
    return row + [0] * (length - len(row))
