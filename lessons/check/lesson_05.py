"""The checks of lesson 05, From bytes to tokens."""

from hypothesis import strategies as st

from check.cases import expect, given
from check.verdict import Wrong, exercise
from minclip.tokenizer import Tokenizer, clean, learn_merges, merge_pair, split_words, to_symbols


@exercise("walk from the left; where you glue, step over both symbols.")
def glue(attempt, draw):
    symbols = tuple(draw(st.lists(st.sampled_from("ab"), max_size=8)))
    pair = draw(st.sampled_from("ab")), draw(st.sampled_from("ab"))
    got = attempt(symbols, pair)
    if not isinstance(got, tuple):
        raise Wrong(f"it returned a {type(got).__name__}, expected a tuple{given({'symbols': symbols, 'pair': pair})}")
    expect(got, merge_pair(symbols, pair), symbols=symbols, pair=pair)


@exercise("max() breaks ties in the wrong way: sort by (−count, pair). And a pair counts as often as its word occurs.")
def learn_bpe(attempt, draw):
    words = draw(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 3), min_size=1, max_size=3))
    n_merges = draw(st.integers(0, 6))
    in_symbols = {to_symbols(word): count for word, count in words.items()}
    wanted = learn_merges(words, n_merges)
    expect(attempt(dict(in_symbols), n_merges), wanted, words=in_symbols, n_merges=n_merges)
    by_hand = [("a", "a"), ("a", "b"), ("aa", "ab")]
    expect(attempt({to_symbols("aaabdaaabac"): 1}, 10), by_hand, word="aaabdaaabac")


@exercise(
    "decode once, the bytes of *all* symbols: a character may be spread over several. A blank is not in CHAR_TO_BYTE.",
    cases=25,
)
def symbols_to_text(attempt, draw):
    text = draw(st.text(st.sampled_from("ab1 .éß猫🐈"), max_size=6) | st.text(max_size=6))
    symbols = [symbol for word in split_words(text) for symbol in to_symbols(word)]
    if draw(st.booleans()):  # some merges, and blanks between words
        tokenizer = Tokenizer.train([text, text], 514 + 3)
        symbols = [tokenizer.symbol_of_id[i] for i in tokenizer.encode(text)]
    got = attempt(list(symbols))
    if not isinstance(got, str) or "".join(got.split()) != "".join(clean(text).split()):
        raise Wrong(f"it returned {got!r}, expected {' '.join(split_words(text))!r}, for symbols = {symbols}")
    if len(got.split()) != len(split_words(text)):
        raise Wrong(f"it returned {got!r}; expected a blank behind every word, for symbols = {symbols}")


@exercise("two places belong to start and end; the text gets the others; zeros fill what is left.")
def fit_to_context(attempt, draw):
    tokenizer, text, length = Tokenizer([]), draw(st.text("ab!", max_size=8)), draw(st.integers(2, 10))
    ids, start_id, end_id = tokenizer.encode(text), tokenizer.start_id, tokenizer.end_id
    wanted = tokenizer(text, length)[0].tolist()
    wanted += [0] * (length - len(wanted))
    got = attempt(list(ids), start_id, end_id, length)
    expect(got, wanted, ids=ids, start_id=start_id, end_id=end_id, length=length)
