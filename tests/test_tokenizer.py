import gzip
import html
import random
from itertools import pairwise

import ftfy
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from minclip import Tokenizer
from minclip.tokenizer import WORD, byte_alphabet, clean, split_words

ENGLISH = [
    "A red heart, and a blue one.",
    "the cat's hat isn't the dog's",
    "woman firefighter: medium-dark skin tone",
    "12 o'clock; 3.14, he'll say they're 'round",
    "red red red heart heart",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(ENGLISH, 600)


def strip_spaces(text: str) -> str:
    return "".join(text.split())


def test_worked_example_by_hand():
    tokenizer = Tokenizer.train(["aaabdaaabac"], 10_000)
    assert tokenizer.merges == [("a", "a"), ("a", "b"), ("aa", "ab")]
    assert tokenizer.vocab_size == 2 * 256 + 3 + 2
    # "!" is byte 0 of CLIP's alphabet, so "a" is 97 − 33; a word's last byte has its own 256 ids; then the merges.
    a, d, aaab, c_end = ord("a") - 33, ord("d") - 33, 512 + 2, 256 + ord("c") - 33
    assert tokenizer.encode("aaabdaaabac") == [aaab, d, aaab, a, c_end]
    assert tokenizer.decode([aaab, d, aaab, a, c_end]) == "aaabdaaabac"


def test_the_first_merges_win_over_longer_ones():
    """Merges are replayed in the order in which they were learned, wherever they stand in the word."""
    tokenizer = Tokenizer([("b", "c</w>"), ("a", "b")])
    assert [tokenizer.symbol_of_id[i] for i in tokenizer.encode("abc")] == ["a", "bc</w>"]


def test_byte_alphabet_is_a_bijection_without_white_space():
    characters = list(byte_alphabet().values())
    assert sorted(byte_alphabet()) == list(range(256))
    assert len(set(characters)) == 256
    assert not any(char.isspace() for char in characters)


@given(st.text())
def test_round_trip_of_any_unicode_up_to_white_space(tokenizer, text):
    assert strip_spaces(tokenizer.decode(tokenizer.encode(text))) == strip_spaces(clean(text))


@given(
    st.lists(st.sampled_from(["</w>", "<|endoftext|>", "<|startoftext|>", "&amp;amp;", "'LL", "ſ", "İ", "\x85", "a"]))
)
def test_round_trip_of_what_looks_like_syntax(tokenizer, parts):
    text = "".join(parts)
    assert strip_spaces(tokenizer.decode(tokenizer.encode(text))) == strip_spaces(clean(text))


def test_bytes_that_are_no_character_decode_to_the_replacement_character(tokenizer):
    first_byte_of_e_acute = tokenizer.encode("é")[0]
    assert tokenizer.decode([first_byte_of_e_acute]) == "\ufffd"


def test_cleaning_mends_unicode_unescapes_twice_and_folds_space():
    assert clean("  Caf&amp;eacute;\n\tNOIR  ") == "café noir"
    assert clean("sÃ©ance") == "séance"  # UTF-8 that was read as Latin-1


@given(
    st.text(st.characters(max_codepoint=0x17F))
    | st.lists(
        st.sampled_from(["<|endoftext|>", "'LL", "'s", "&", "amp;", "<b>", "\x1b[1m", "\r", "\u212a", "A1"])
    ).map("".join)
)
@example("A plain caption, isn't it? <|startoftext|>")
@example("I &lt;3 it")
@example("sÃ©ance")
@example("\x1b[31mred")  # ftfy takes terminal colours away
@example("\u212a")  # the sign of the kelvin becomes an ordinary k
def test_the_shortcut_for_plain_text_finds_the_same_words(text):
    cleaned = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    assert split_words(text) == WORD.findall(cleaned)


@given(st.permutations(ENGLISH))
def test_training_does_not_depend_on_the_order_of_texts(texts):
    assert Tokenizer.train(texts, 560).merges == Tokenizer.train(ENGLISH, 560).merges


def test_training_counts_pairs_as_a_recount_from_scratch_does():
    """The bookkeeping of changed words agrees with counting everything anew after every merge."""
    generator = random.Random(0)
    texts = [
        " ".join("".join(generator.choices("abc", k=generator.randint(1, 12))) for _ in range(5)) for _ in range(20)
    ]
    merges = Tokenizer.train(texts, 560).merges
    words = [[*word[:-1], word[-1] + "</w>"] for text in texts for word in text.split()]
    for merge in merges:
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        assert merge == min(counts, key=lambda pair: (-counts[pair], pair))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == merge:
                    word[i : i + 2] = ["".join(merge)]
                i += 1
    assert len(merges) == 560 - 514


@pytest.fixture(scope="module")
def twins() -> tuple[Tokenizer, CLIPTokenizer]:
    ours = Tokenizer.train(ENGLISH, 600)
    theirs = CLIPTokenizer(vocab=dict(ours.id_of_symbol), merges=ours.merges)  # pyright: ignore[reportArgumentType]
    return ours, theirs


@given(st.lists(st.sampled_from([*ENGLISH[0].split(), "unheard-of", "x2", "don't"]), min_size=1).map(" ".join))
def test_same_ids_as_hugging_face_on_the_same_merges(twins, text):
    ours, theirs = twins
    assert [ours.start_id, *ours.encode(text), ours.end_id] == theirs(text)["input_ids"]


@given(st.text(st.characters(exclude_categories=["Cn", "Co", "Cs"])))
@example("five o\u2019clock")
@example("C\u00f4te d\u2019Ivoire &amp; caf\u00e9")
def test_same_ids_as_hugging_face_for_a_text_that_was_cleaned(twins, text):
    """Hugging Face's tokenizer does not clean. Unassigned characters are left out: its tables may be newer or older."""
    ours, theirs = twins
    assert ours.encode(text) == theirs(clean(text), add_special_tokens=False)["input_ids"]


def test_batches_are_padded_to_their_longest_text(tokenizer):
    tokens = tokenizer(["red", "a red heart, and a blue one", "red"])
    assert tokens.dtype == torch.int64
    lengths = [len(tokenizer.encode(text)) + 2 for text in ("red", "a red heart, and a blue one", "red")]
    assert tokens.shape == (3, max(lengths))
    for row, length in zip(tokens.tolist(), lengths, strict=True):
        assert row[0] == tokenizer.start_id
        assert row[length - 1] == tokenizer.end_id
        assert row[length:] == [0] * (max(lengths) - length)
    assert tokenizer("red").shape == (1, lengths[0])


@given(st.integers(2, 12))
def test_truncation_keeps_the_start_of_the_text_and_the_end_token(tokenizer, context_length):
    text = "a red heart and a blue one and a red one"
    row = tokenizer([text], context_length)[0].tolist()
    assert row == [tokenizer.start_id, *tokenizer.encode(text)[: context_length - 2], tokenizer.end_id]


def test_ten_thousand_words_are_cut(tokenizer):
    assert tokenizer(["red heart " * 5_000], 32).shape == (1, 32)


@pytest.mark.parametrize("name", ["merges.txt", "merges.txt.gz"])
def test_save_and_load(tokenizer, tmp_path, name):
    tokenizer.save(tmp_path / name)
    first = (tmp_path / name).read_bytes()
    tokenizer.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]
    loaded = Tokenizer.load(tmp_path / name)
    assert loaded.merges == tokenizer.merges
    assert loaded.encode("the cat's hat") == tokenizer.encode("the cat's hat")


def test_openais_file_is_cut_where_openai_cuts_it(tmp_path):
    """Its file lists 262,145 merges and the vocabulary of its model has 49,408 entries."""
    pairs = (f"{left}{middle} {right}" for left in "abcdefghij" for middle in alphabet() for right in alphabet())
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *pairs]
    assert len(lines) > 50_000
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert Tokenizer.load(path).vocab_size == 49_408


def alphabet() -> list[str]:
    return list(byte_alphabet().values())[:75]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not '#version"),
        (b"a b\n", "not '#version"),
        (b"#version: 0.2\na b\nabc\n", "line 3: 'abc' is not a merge"),
        (b"#version: 0.2\na \xff\n", "is not a merges file"),
        (gzip.compress(b"#version: 0.2\na b\n", mtime=0)[:-9], "is not a merges file"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "merges.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


def test_bad_arguments(tokenizer):
    with pytest.raises(ValueError, match="vocab_size is 513"):
        Tokenizer.train(ENGLISH, 513)
    with pytest.raises(ValueError, match="list is empty"):
        tokenizer([])
    with pytest.raises(ValueError, match="context_length is 1"):
        tokenizer(["red"], 1)
