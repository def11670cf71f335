"""Wrong answers to the exercises of lesson 05, From bytes to tokens."""

from solutions.lesson_05 import glue as glued

from minclip.tokenizer import Tokenizer, learn_merges
from mistakes import Hinted


def text(symbols: tuple[str, ...]) -> str:
    return "".join(symbols).removesuffix("</w>")


MISTAKES = {
    "glue": [
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), f" {''.join(pair)} ").split()),
        lambda symbols, pair: tuple(  # glues without stepping over: a a a -> aa aa a
            "".join(pair) if symbols[i : i + 2] == pair else symbols[i] for i in range(len(symbols))
        ),
        Hinted(lambda symbols, pair: list(glued(symbols, pair)), "makes a tuple"),
        lambda symbols, pair: glued(symbols, pair)[:-1],  # the last one is lost
        lambda symbols, pair: glued(symbols, pair) if symbols[:2] == pair else symbols,  # at the beginning only
        lambda symbols, pair: glued(symbols[::-1], pair[::-1])[::-1],  # from the right
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), "".join(pair))),
        Hinted(("            i += 1\n", ""), "what ends each loop?"),  # never ends
    ],
    "train_bpe": [
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
    "encode": [
        ("min(known, key=rank.__getitem__)", "max(known, key=lambda pair: len(''.join(pair)))"),  # the longest symbol
        ("min(known, key=rank.__getitem__)", "known[0]"),  # the leftmost
        ("min(known, key=rank.__getitem__)", "max(known, key=rank.__getitem__)"),  # the one that was learned last
        ("min(known, key=rank.__getitem__)", "min(known)"),  # the first in sort order
        ("while known :=", "if known :="),  # one merge for each word
        Hinted(("split_words(text)", "text.split()"), "cleaned and cut"),
        Hinted(("split_words(text)", "split_words(text)[:1]"), ""),
        ("found += [ids[symbol] for symbol in symbols]", "found += symbols"),  # no ids
        ("found += [ids[symbol] for symbol in symbols]", "found += [ids.get(symbol, 0) for symbol in word]"),
        ("to_symbols(word)", "tuple(word)"),  # neither bytes nor the mark
        ("for word in split_words(text):", "for word in [''.join(split_words(text)) or ' ']:"),  # across words
        Hinted(("for word in split_words(text):", "for word in [text]:"), "cut the text into words"),
        ("    return found\n", "    return [ids['<|startoftext|>'], *found, ids['<|endoftext|>']]\n"),
        lambda text, rank, ids: Tokenizer([]).encode(text),  # bytes
    ],
}
