"""The checks of lesson 05, From bytes to tokens."""

from hypothesis import strategies as st

from check.cases import expect, given
from check.verdict import Wrong, exercise
from minclip.tokenizer import Tokenizer, learn_merges, merge_pair, to_symbols


@exercise(
    "walk from the left; where you glue, step over both symbols.",
    steps=(
        "what do you do at a place where the pair occurs, and how far do you step then?",
        "a while loop over places: symbols[i : i + 2] == pair tells whether the pair occurs at place i",
        "if it does, append the glued string and step by 2, else append symbols[i] and step by 1; return a tuple",
    ),
)
def glue(attempt, draw):
    symbols = tuple(draw(st.lists(st.sampled_from("ab"), max_size=8)))
    pair = draw(st.sampled_from("ab")), draw(st.sampled_from("ab"))
    got = attempt(symbols, pair)
    if not isinstance(got, tuple):
        problem = f"it returned a {type(got).__name__}, expected a tuple{given({'symbols': symbols, 'pair': pair})}"
        raise Wrong(problem, "tuple(…) makes a tuple out of a list")
    expect(got, merge_pair(symbols, pair), symbols=symbols, pair=pair)


@exercise(
    "a pair counts as often as its word occurs; of equally frequent pairs, take the first in sort order, which max() "
    "does not do; stop when the largest count is below 2 or no pair is left.",
    steps=(
        "what must be counted anew after each merge?",
        "count pairwise(symbols), each place as often as its word occurs; then glue the best pair in all words",
        "min(counts, key=lambda pair: (-counts[pair], pair)) is the most frequent pair, the first among equals",
    ),
)
def train_bpe(attempt, draw):
    words = draw(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 3), min_size=1, max_size=3))
    n_merges = draw(st.integers(0, 6))
    in_symbols = {to_symbols(word): count for word, count in words.items()}
    wanted = learn_merges(words, n_merges)
    expect(attempt(dict(in_symbols), n_merges), wanted, words=in_symbols, n_merges=n_merges)
    by_hand = [("a", "a"), ("a", "b"), ("aa", "ab")]
    expect(attempt({to_symbols("aaabdaaabac"): 1}, 10), by_hand, word="aaabdaaabac")


# These are the merges of OpenAI's list that can take part in the texts below, with their places in the list.
OPENAI = """
a+n:2 r+e:3 e+r:5 a+t:15 e+r</w>:16 t+o</w>:19 a+t</w>:24 o+f</w>:27 e+l:32 o+m:35 a+m:36 a+n</w>:38 r+a:47 '+s</w>:56
d+i:58 m+a:65 t+o:68 i+r:70 g+h:71 t+e:88 a+g:90 h+o:94 m+e:101 d+o:127 h+e:139 t+er</w>:140 o+f:172 a+m</w>:175
f+i:189 t+er:192 g+r:197 m+an:211 p+h:233 f+ir:258 c+a:260 g+ra:270 m+an</w>:274 p+ho:304 e+t</w>:363 h+el:407
w+om:575 i+g:577 pho+to</w>:613 pho+to:641 e+t:657 gh+t:901 c+at:969 e+f:978 w+o:1101 o+t:1351 do+g</w>:1417 r+am:1464
ra+m</w>:1495 wom+an</w>:1796 gra+m</w>:1826 me+t</w>:1828 c+at</w>:1856 gh+ter</w>:1915 ag+ram</w>:1935 i+gh:2200
ho+t:2339 gr+am:2437 fi+re:2439 i+re:2501 re+f:3555 do+g:3814 fi+g:4302 me+t:4737 fi+ght:4750 fi+ghter</w>:5926
di+ag:6339 l+m:6469 di+a:6839 o+g</w>:8043 om+an</w>:10359 hel+met</w>:10610 h+t:10611 o+g:11030 i+a:11974 i+ght:14059
wom+an:15204 fire+fighter</w>:19986 om+an:21576 di+agram</w>:22185 fi+gh:22762 o+to</w>:22887 o+to:23434 el+m:24687
ag+ra:26148 figh+ter:35372 ag+r:36127 om+a:44091 hel+m:47458
"""
OPENAI_RANK = {
    (pair.split("+")[0], pair.split("+")[1]): int(place)
    for pair, place in (item.rsplit(":", 1) for item in OPENAI.split())
}
# These are the ids that OpenAI's tokenizer gives for the texts.
OPENAI_IDS = {
    "a diagram": [320, 22697],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A woman firefighter's helmet!": [320, 2308, 20498, 568, 11122, 256],
    "猫": [163, 234, 360],
}


def openai_vocabulary() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """The places of those merges in OpenAI's list, and the ids of their symbols and of all bytes."""
    of_bytes = {symbol: i for i, symbol in enumerate(Tokenizer([]).symbol_of_id[:512])}
    return OPENAI_RANK, of_bytes | {"".join(pair): 512 + rank for pair, rank in OPENAI_RANK.items()}


@exercise(
    "cut the text into words; of all pairs of neighbours in a word, glue the one that was learned first, until no "
    "learned pair is left.",
    cases=30,
    steps=(
        "the word is a row of bytes again. Which pairs may be glued, and which of them first?",
        "set(pairwise(symbols)) holds the word's pairs; those in `rank` were learned, the lowest rank first",
        "min(known, key=rank.get) is the next one to glue; when `known` is empty, look the symbols up in `ids`",
    ),
)
def encode(attempt, draw):
    text = draw(st.lists(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=3).map(" ".join))
    learned = draw(st.lists(st.text("abc", min_size=2, max_size=7), min_size=1, max_size=3))
    tokenizer = Tokenizer.train([*learned, *learned], 514 + draw(st.integers(0, 8)))
    got = attempt(text, dict(tokenizer.rank), dict(tokenizer.id_of_symbol))
    expect(got, tokenizer.encode(text), text=text, rank=tokenizer.rank)
    text = draw(st.text(st.sampled_from("aB1 .é'猫🐈"), max_size=6) | st.text(max_size=6))
    cut = "the text is cleaned and cut into words, then each word becomes marked bytes: split_words, to_symbols"
    got = attempt(text, dict(tokenizer.rank), dict(tokenizer.id_of_symbol))
    expect(got, tokenizer.encode(text), hint=cut, text=text)
    for text, ids in OPENAI_IDS.items():
        expect(attempt(text, *openai_vocabulary()), ids, hint=cut * text.startswith("A"), text=text, rank="OpenAI's")
