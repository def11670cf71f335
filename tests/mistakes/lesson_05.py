"""Wrong answers to the exercises of lesson 05, From bytes to tokens."""

from solutions.lesson_05 import glue as glued

from minclip.tokenizer import CHAR_TO_BYTE, learn_merges
from mistakes import Hinted


def text(symbols: tuple[str, ...]) -> str:
    return "".join(symbols).removesuffix("</w>")


MISTAKES = {
    "glue": [
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), f" {''.join(pair)} ").split()),
        lambda symbols, pair: tuple(  # glues without stepping over: a a a -> aa aa a
            "".join(pair) if symbols[i : i + 2] == pair else symbols[i] for i in range(len(symbols))
        ),
        lambda symbols, pair: list(glued(symbols, pair)),  # a list
        lambda symbols, pair: glued(symbols, pair)[:-1],  # the last one is lost
        lambda symbols, pair: glued(symbols, pair) if symbols[:2] == pair else symbols,  # at the beginning only
        lambda symbols, pair: glued(symbols[::-1], pair[::-1])[::-1],  # from the right
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), "".join(pair))),
        Hinted(("            i += 1\n", ""), "what ends each loop?"),  # never ends
    ],
    "learn_bpe": [
        lambda words, n: learn_merges({text(word): 1 for word in words}, n),  # every word once
        lambda words, n: learn_merges({text(word): 2 * count for word, count in words.items()}, n),  # stops too late
        lambda words, n: learn_merges({text(word): count for word, count in words.items()}, n + 1),
        ("(-pair_counts[pair], pair)", "-pair_counts[pair]"),  # of equals the first that was met
        ("-pair_counts[pair], pair)", "-pair_counts[pair], pair[::-1])"),
        (" or pair_counts[best] < 2", ""),  # a pair that occurs once is merged, too
        ("words = {glue(symbols, best): count for symbols, count in words.items()}", "pass"),
        ("pair_counts[pair] += count", "pair_counts[pair] = count"),
        ("(-pair_counts[pair], pair)", "(pair_counts[pair], pair)"),  # the rarest
    ],
    "symbols_to_text": [
        lambda symbols: "".join(  # each symbol on its own
            bytes(CHAR_TO_BYTE[char] for char in symbol.removesuffix("</w>")).decode(errors="replace")
            + " " * symbol.endswith("</w>")
            for symbol in symbols
        ),
        lambda symbols: "".join(symbols).replace("</w>", " "),  # the printable characters taken for letters
        lambda symbols: bytes(CHAR_TO_BYTE[c] for c in "".join(symbols).replace("</w>", "")).decode(),  # no blanks
        ('"".join(symbols)', '" ".join(symbols)'),  # a blank between any two symbols
        (".decode().strip()", '.decode("latin-1").strip()'),
        ('bytes(ord(" ") if char == " " else CHAR_TO_BYTE[char]', "bytes(CHAR_TO_BYTE[char]"),  # a KeyError
        ("CHAR_TO_BYTE[char] for", "ord(char) for"),
        (".decode().strip()", '.decode(errors="ignore").strip().lower().replace(" ", "")'),
    ],
    "fit_to_context": [
        lambda ids, start, end, length: ([start, *ids, end] + [0] * length)[:length],  # cuts EOT off
        lambda ids, start, end, length: [start, *ids[: length - 2], end],  # no padding
        lambda ids, start, end, length: [start, *(ids + [0] * length)[: length - 2], end],  # EOT behind the padding
        lambda ids, start, end, length: (ids + [0] * length)[:length],  # neither start nor end
        lambda ids, start, end, length: [start, *ids[: length - 2], end] + [end] * (length - 2 - len(ids)),
        lambda ids, start, end, length: [0] * (length - 2 - len(ids)) + [start, *ids[: length - 2], end],
        lambda ids, start, end, length: [start, *ids[: length - 1], end] + [0] * (length - 2 - len(ids)),
        lambda ids, start, end, length: [start, *ids[-(length - 2) :], end] + [0] * (length - 2 - len(ids)),
    ],
}
