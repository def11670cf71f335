# %% [markdown]
# # 05 · From bytes to tokens
#
# **The question.** CLIP's text tower does not read letters or words. It reads numbers between 0 and 49,407, and a
# file called `bpe_simple_vocab_16e6.txt.gz` says what each of them means. How was that vocabulary made, and how do
# you get one for your own captions? ([openai/CLIP #233](https://github.com/openai/CLIP/issues/233); the answer there
# is the name of another library. Here is the algorithm.)
#
# **You need** Python: strings, tuples, dictionaries. No other lesson is needed.
#
# **Afterwards you can** train a byte-pair encoding with pencil and paper and with twenty lines of Python, write an
# `encode` that gives OpenAI's own ids, say what a tokenizer keeps and what it throws away, and explain why the same
# sentence costs more tokens in one language than in another.
#
# **Place.** Part II, *A CLIP of your own*; after lesson 00. About 75 minutes, 40 of them for the three exercises.
# Lesson 06 reads the ids, and lesson 08 trains with the vocabulary that you learn here.

# %%
from itertools import pairwise

import check
import matplotlib.pyplot as plt
from check.lesson_05 import openai_vocabulary

import minclip
from minclip.data import emoji_captions, unseen_emoji
from minclip.tokenizer import BYTE_TO_CHAR, CHAR_TO_BYTE, END_OF_WORD, clean, split_words, to_symbols

plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## A text is bytes
#
# A model needs a finite list of things that it can read, its **vocabulary**, and each thing's place in the list is its
# **id**. If the things are words, some word is always missing. If they are Unicode characters, there are more than a
# hundred thousand. But every text is already stored as **bytes**, in UTF-8, and there are only 256 of them:

# %%
for text in ("cat", "né", "猫", "🐈"):
    print(f"{text:4} {len(text)} characters, {len(text.encode())} bytes: {list(text.encode())}")

# %% [markdown]
# With 256 ids nothing can ever be unknown: no letter, no language, no emoji. The price is length: "cat" is three ids
# instead of one, and the model's work grows faster than the length (lesson 06).
#
# **Byte-pair encoding** (BPE) starts from the bytes and shortens the texts again. It looks for the pair of neighbours
# that occurs most often, makes the two into one new **symbol**, adds it to the vocabulary, and starts over. Frequent
# words end up as one symbol; rare ones stay in pieces; nothing is ever unknown. (BPE was originally a compression
# trick. [Sennrich et al. 2016](https://arxiv.org/abs/1508.07909) used it for translation and GPT-2 on bytes; CLIP took
# it from there: section 2.4 of [Radford et al. 2021](https://arxiv.org/abs/2103.00020).)
#
# Before any pair is counted, CLIP does three things to a text. It **cleans** it (lower case, HTML entities, broken
# Unicode, white space). It cuts it into **words** with a pattern (runs of letters, single digits, endings such as 's,
# runs of anything else), and no pair ever crosses a word boundary. And it marks the last byte of every word with
# `</w>`, so that *art* at the end of *heart* is not the *art* that begins *artist*.

# %%
print(repr(clean("  A  GRINNING\tCat &amp; a heart\n")))
print(split_words("a cat's 3 hearts!"))
print(to_symbols("heart"))
print(to_symbols("né"), "two bytes for é")

# %% [markdown]
# Some of the 256 bytes are invisible when printed (a space, the end of a line). CLIP, like GPT-2, gives every byte a
# visible stand-in, in the table `BYTE_TO_CHAR`: printable Latin characters stand for themselves, and other characters
# stand for the rest. So a list of symbols can be stored as a readable text file. `CHAR_TO_BYTE` is the way back. The
# letter é, bytes 195 and 169, prints as Ã©.
#
# ## `aaabdaaabac`, with a pencil
#
# Take a pencil; this small string is the classic example. (1) Count every pair of neighbours, including overlapping
# ones: `a a a` contains (a, a) twice, though only one of them can be glued. (2) Glue the most frequent pair into one
# symbol, everywhere, from the left. If two pairs are equally frequent, take the one that comes first in Python's order
# of tuples: (a, b) before (aa, a). Repeat both steps until no pair occurs twice.
#
# Here are the counts of the first round, to start you off:

# %%
word = to_symbols("aaabdaaabac")
print(*word)
pairs = list(pairwise(word))
for pair in sorted(set(pairs), key=lambda pair: (-pairs.count(pair), pair)):
    print(pair, pairs.count(pair))

# %% [markdown]
# **Exercise 1.** Write step 2. Mind `a a a`: from the left it becomes `aa a`, because the middle one is used up.


# %%
def glue(symbols, pair):
    """symbols: a tuple of strings; pair: two of them -> the tuple with each occurrence of the pair joined."""
    raise NotImplementedError


# %%
glue = check.glue(glue)

# %% [markdown]
# **Exercise 2.** Now write the whole training. A collection of texts is a dictionary from each distinct word, as a
# tuple of symbols, to the number of times that it occurs. A pair in a word that occurs 500 times counts 500 times.


# %%
def train_bpe(words, n_merges):
    """words: {tuple of symbols: count} -> the list of at most n_merges pairs, in the order in which they were glued.

    The most frequent pair first (each place counts as often as its word occurs); of equally frequent ones the first
    in sort order; stop when the largest count is below 2.
    """
    raise NotImplementedError


# %%
train_bpe = check.train_bpe(train_bpe)

# %% [markdown]
# Compare this with what you wrote down:

# %%
symbols = word
print(f"{'':24}", *symbols)
for pair in train_bpe({word: 1}, 10):
    symbols = glue(symbols, pair)
    print(f"glue {pair[0]:>4} and {pair[1]:<4} ->", f"{'':4}", *symbols)

# %% [markdown]
# Each line is a **merge**. The vocabulary consists of the bytes, the bytes with `</w>`, one new symbol for each merge,
# in order, and two special ids for the start and the end of a text. So the list of merges *is* the tokenizer, and that
# is what OpenAI's file holds: a line with the version, then one pair per line, the earliest merge first. (It lists more
# merges than the model uses; the next cell counts how many the model takes, from the top.)

# %%
BASE = 2 * len(BYTE_TO_CHAR) + 2  # the bytes, the bytes with </w>, start, end
openai = minclip.PRESETS["ViT-B/32"].vocab_size
print(f"OpenAI's vocabulary has {openai:,} entries: 2 × {len(BYTE_TO_CHAR)} bytes, start, end,", end=" ")
print(f"and {openai - BASE:,} merges")
print(f"(the paper's section 2.4 says {openai - len(BYTE_TO_CHAR):,}: without the bytes that carry </w>)")

# %% [markdown]
# ## A real vocabulary
#
# Our texts are the names of all emoji, as Unicode's translators wrote them. We learn from most of them and set aside
# the names of the *unseen* emoji, the ones that the models of this course are tested on. `minclip.Tokenizer.train` does
# what you just wrote; it recounts only the words that a merge has changed, which makes it faster.

# %%
english, chinese = emoji_captions("en"), emoji_captions("zh")
learned_from = [codes for codes in english if codes not in unseen_emoji()][:: check.pick(1, 6)]
kept_aside = [codes for codes in english if codes in unseen_emoji()]
vocab_size = check.pick(1536, 700)
tokenizer = minclip.Tokenizer.train((english[codes] for codes in learned_from), vocab_size)
print(f"{len(learned_from)} captions, {tokenizer.vocab_size} entries, {len(tokenizer.merges)} merges")
print("the first:", *("".join(pair) for pair in tokenizer.merges[:24]))
print("the last: ", *("".join(pair) for pair in tokenizer.merges[-12:]))

# %% [markdown]
# The merges show what the names of emoji are about. The early ones build a few words that occur in a great many
# captions, because most people are drawn in five skin tones. Captions of photographs would give a different list. The
# algorithm knows nothing about language; it finds what repeats.
#
# ## From a text to ids
#
# How does a new text become ids? It is cleaned and cut into words, as above (`split_words` does both). Each word is
# taken apart into bytes, and the training is repeated on it: of all pairs of neighbours in the word, the one that was
# learned *first* is glued, everywhere, and so on until no learned pair is left. The symbols that remain are the word's
# **tokens**, and each has its id. (The next merge is neither the longest symbol that fits, as in other tokenizers, nor
# the leftmost pair.)
#
# **Exercise 3.** Write `encode`. `tokenizer.rank` gives, for every learned pair, its place in the list, and
# `tokenizer.id_of_symbol` gives the id of a symbol. The check compares your ids with the library's on random texts;
# then it takes part of OpenAI's own list and expects the ids that OpenAI's tokenizer gives.


# %%
def encode(text, rank, ids):
    """text, {pair: its place in the list of merges}, {symbol: id} -> the list of ids, without start and end."""
    raise NotImplementedError


# %%
encode = check.encode(encode)

# %% [markdown]
# Here are the ids with our vocabulary, and with OpenAI's (only those of its merges that can occur in these texts):

# %%
for text in ("woman firefighter", "a photo of a cat"):
    ids = encode(text, tokenizer.rank, tokenizer.id_of_symbol)
    print(f"{text!r:20} {ids}", *(tokenizer.symbol_of_id[i].replace(END_OF_WORD, "·") for i in ids))
print("the same as minclip's:", ids == tokenizer.encode(text))
print()
for text in ("a photo of a cat", "a diagram", "A woman firefighter's helmet!"):
    print(f"{text!r:34} {encode(text, *openai_vocabulary())}")

# %% [markdown]
# "a diagram" comes from the example in OpenAI's own README. Their list was learned from far more text than ours, so
# "diagram" is one token there.
#
# ## Merges as a tree
#
# Drawn on paper, a word's merges form a tree: the bytes are at the bottom, and every merge is a fork. The number under
# a symbol is the merge's place in the list (a number that appears twice is one merge, used twice). What to look for:
# where a word ends up as a single tree, it is a single token; where it ends up as several trees, no merge joins them.
# Each token is framed, even a single byte that no merge took.


# %% jupyter={"source_hidden": true}
def draw_trees(axes, word):
    nodes = [(symbol, place, 0) for place, symbol in enumerate(to_symbols(word))]  # symbol, x, height
    labels = [(*node, "") for node in nodes]
    for number, pair in enumerate(tokenizer.merges, start=1):
        i = 0
        while i + 1 < len(nodes):
            (left, left_x, left_y), (right, right_x, right_y) = nodes[i : i + 2]
            if (left, right) == pair:
                top = 1 + max(left_y, right_y)
                axes.plot([left_x, left_x, right_x, right_x], [left_y, top, top, right_y], color="0.6", zorder=1)
                nodes[i : i + 2] = [(left + right, (left_x + right_x) / 2, top)]
                labels.append((*nodes[i], f"\n{number}"))
            i += 1
    for symbol, x, y, number in labels:
        box = {"facecolor": "white", "edgecolor": "black" if (symbol, x, y) in nodes else "none", "pad": 2}
        text = symbol.replace(END_OF_WORD, "·") + number
        axes.text(x, y, text, ha="center", va="center", fontsize=8.5, linespacing=1.3, bbox=box)
    title = f"{word}: {len(nodes)} token{'s' * (len(nodes) > 1)}"
    axes.set(title=title, xticks=[], yticks=range(5), xlim=(-0.7, len(word) - 0.3), ylim=(-0.4, 4.6))
    axes.spines["bottom"].set_visible(False)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
left.set_ylabel("merges, stacked")
figure.supxlabel(
    "below: the bytes; a dot: </w>; under a symbol: the merge's place in the list; framed: a token", fontsize=9
)
for axes, word in ((left, "firefighter"), (right, "photograph")):
    draw_trees(axes, word)

# %% [markdown]
# The numbers grow from the bytes upwards: a pair can only be glued when both of its halves exist. The pieces are
# neither syllables nor stems, even where they look like them; they are what repeated in *these* captions. That is the
# answer to "how do I get the vocabulary for my dataset?": you train it on your dataset.
#
# ## The same sentences in two languages
#
# The captions exist in many languages, and each says the same thing in all of them. So we can ask what a sentence costs
# in tokens. We train one tokenizer on English and one on Chinese and encode the captions that were set aside. A single
# training run also gives every smaller tokenizer, since the first merges of the list form a smaller vocabulary.
#
# Which language needs more tokens for the same captions, each with its own vocabulary?

# %%
check.predict("more tokens per caption", None, options=("English", "Chinese"))

# %%
tokenizer_zh = minclip.Tokenizer.train((chinese[codes] for codes in learned_from), vocab_size)
sizes = [BASE + round((vocab_size - BASE) * part) for part in (0, 0.04, 0.1, 0.2, 0.4, 0.7, 1)]


def count_tokens(trained, captions, size):
    """Tokens that a vocabulary of `size` entries needs for these captions."""
    smaller = minclip.Tokenizer(trained.merges[: size - BASE])
    return sum(len(smaller.encode(caption)) for caption in captions)


texts_en, texts_zh = [english[codes] for codes in kept_aside], [chinese[codes] for codes in kept_aside]
curves = {
    "English": (tokenizer, texts_en, "o-"),
    "Chinese": (tokenizer_zh, texts_zh, "s--"),
    "Chinese, vocabulary learned from English": (tokenizer, texts_zh, "^:"),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
last = {}
for name, (trained, captions, style) in curves.items():
    counts = [count_tokens(trained, captions, size) for size in sizes]
    characters = sum(len(clean(caption).replace(" ", "")) for caption in captions)
    left.plot(sizes, [count / characters for count in counts], style, label=name)
    right.plot(sizes, [count / len(captions) for count in counts], style, label=name)
    last[name] = counts[-1] / characters, counts[-1] / len(captions)
left.set(title="per character", xlabel="entries of the vocabulary", ylabel="tokens per character", ylim=(0, None))
right.set(title="per caption", xlabel="entries of the vocabulary", ylabel="tokens per caption", ylim=(0, None))
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
for name, (per_character, per_caption) in last.items():
    print(f"{name:42} {per_character:.2f} tokens per character, {per_caption:5.1f} per caption")
check.reveal("more tokens per caption", max(("English", "Chinese"), key=lambda language: last[language][1]))

# %% [markdown]
# At the left edge there are no merges, and a token is a byte: one for nearly every English letter, three for every
# Chinese character. Then the merges go to work. Three things are worth a second look:
#
# - *Per character*, Chinese costs more at every size; *per caption*, it costs less at every size, even without any
#   merges, since a Chinese character says more. Tokens per character compare alphabets; tokens for the same sentence
#   compare costs.
# - The pattern that cuts words looks for white space, and Chinese has none. So a whole phrase counts as one word, and
#   merges may glue across what a Chinese reader would call words. That helps the dashed curves.
# - A vocabulary learned from English does next to nothing for Chinese: the dotted curves are flat. A model reads a
#   limited number of tokens, its **context**, and a language that the vocabulary was not learned from fills it quickly:

# %%
room = minclip.PRESETS["ViT-B/32"].context_length - 2  # without start and end
print(f"With vocabularies of {vocab_size} entries, OpenAI's context ({room} tokens, and start and end) has room for:")
for name, (per_character, _) in last.items():
    print(f"{name:42} about {room / per_character:3.0f} characters, spaces not counted")

# %% [markdown]
# ## And back again
#
# Decoding is easy, with one trap. A symbol is a piece of *bytes*, and a character may be spread over several symbols:

# %%
pieces = [tokenizer.symbol_of_id[i] for i in tokenizer.encode("猫 naïve")]
print(pieces)
for symbol in pieces:
    print(f"{symbol:8} -> bytes {[CHAR_TO_BYTE[char] for char in symbol.removesuffix(END_OF_WORD)]}")

# %% [markdown]
# So all bytes must be joined before they are decoded, and each `</w>` becomes a space. (CLIP's pattern skips white
# space, so the tokenizer can only put one space after every word.)

# %%
for text in ("Woman  Firefighter", "naïve 猫 🐈", "it's 100 %", "“ﬁne” &lt;3"):
    print(f"{text!r:24} -> {len(tokenizer.encode(text)):2} tokens -> {tokenizer.decode(tokenizer.encode(text))!r}")

# %% [markdown]
# Two things were lost: what cleaning changes (capitals, HTML entities, curly quotes, ligatures such as ﬁ, …), and where
# the white space was. BPE itself loses nothing; a word that it never met only costs more tokens.
#
# ## A row of the batch
#
# The text tower wants a rectangle: every text as a row of the same length. Each row is the id of **SOT** (start of
# text), the text's ids, the id of **EOT** (end of text), then zeros (**padding**) up to the length of the longest. A
# text that is too long for the model's context is cut.
#
# Where it is cut matters: the model reads its feature *at the EOT token* (lesson 06). So a text that is cut must lose
# its last words and keep its EOT. A plain `row[:length]` cuts off the very token that the model looks for.

# %%
caption = "woman firefighter medium skin tone"
for length in (12, 5):
    row = tokenizer(["cat on a very long and winding road with trees", caption], length)[1].tolist()
    print(f"{length:2} places at most:", row)
    print("          ", *(tokenizer.symbol_of_id[i].replace(END_OF_WORD, "·") for i in row))

# %% [markdown]
# (The padding prints as an exclamation mark: id 0 is the first of the printable bytes, in our vocabulary as in
# OpenAI's. It is a "!" that does not end its word, such as the one in "!?"; a "!" that ends its word has `</w>` and id
# 256, as in *helmet!* above. That padding and a real "!" look the same to the model sounds like a bug. The next lesson
# shows why it is not one.)
#
# ## The answer
#
# The vocabulary is a list of merges: count neighbours, glue the most frequent pair, repeat. You get one for your own
# captions by running that on them, and you read a text by replaying the merges on it, the earliest first.
#
# It starts from 256 bytes, so nothing is unknown. It is trained on some text, so what that text repeats costs few
# tokens, and everything else costs many: that is why the same sentence is cheap in one language and expensive in
# another. A text loses what cleaning changes and the places of its white space; BPE itself loses nothing.
#
# ## What this lesson does not show
#
# Whether a better vocabulary makes a better CLIP: nothing was trained here but the merges. Nor the other ways to cut
# words (WordPiece, unigram models), nor how to make the training fast enough for billions of words. The comparison of
# languages is about short names of emoji, which repeat their words far more than ordinary text does, so the numbers are
# flattering. And English and Chinese share hardly any bytes: we did not measure how many more tokens a text costs if
# the vocabulary was learned from another language in the *same* script.
#
# ## Harder, and without a solution
#
# - Make `train_bpe` ten times as fast: a merge changes few words, so most counts stay (`learn_merges` in
#   [tokenizer.py](../minclip/tokenizer.py) does it). Do the two lists still agree, ties included?
# - Instead, encode from the left, always with the longest symbol that fits. For how many captions do the ids differ,
#   and which of the two methods needs fewer tokens?
# - Find words from your own field that cost three or more of OpenAI's tokens, if you have its file
#   (`minclip.Tokenizer.load`). What do they have in common?
#
# Stuck? `check.hint("encode")` gives hints, one after the other; all solutions are in
# [solutions/lesson_05.py](solutions/lesson_05.py).
