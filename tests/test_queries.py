from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minclip import CLIP, PRESETS, Tokenizer, evaluate, queries
from minclip.data import TWEMOJI, Emoji, Pairs
from minclip.queries import Query

COMMITTED = Path(__file__).parent / "queries.csv"
CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=520)


def test_the_committed_queries_are_a_hundred_and_none_is_a_bare_name():
    committed = queries.read_queries(COMMITTED)
    assert len({query.text for query in committed}) == 100
    names = {name for query in committed for name in query.right}
    bare = [query.text for query in committed if query.text in names]
    assert len(bare) <= 5
    assert "pizza" in committed[0].right


def test_a_right_emoji_counts_in_any_tone_and_by_any_artist():
    torch.manual_seed(0)
    model, tokenizer = CLIP(CONFIG).eval(), Tokenizer.train(["red heart red heart"], CONFIG.vocab_size)
    origins = [Emoji("1F408"), Emoji("1F44B-1F3FB"), Emoji("1F44B", TWEMOJI), Emoji("270C-1F3FD"), Emoji("2764-FE0F")]
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(images, origins, list("abcde"), torch.arange(5))
    asked = [
        Query("a cat", frozenset({"cat"})),
        Query("hello", frozenset({"waving hand"})),
        Query("peace", frozenset({"victory hand", "red heart"})),
    ]
    found = queries.answer_queries(model, tokenizer, pairs, asked)
    is_right = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    cosine, _ = evaluate.classify(model, tokenizer, images, [query.text for query in asked])
    best = cosine.T.argmax(dim=1)
    assert found.top1 == pytest.approx(is_right[torch.arange(3), best].double().mean().item())
    assert (found.queries, found.pictures, found.top5) == (3, 5, 1)
    assert found.chance1 == pytest.approx((1 + 2 + 2) / 5 / 3)
    names = ["cat", "waving hand", "waving hand", "victory hand", "red heart"]
    assert found.first == [names[i] for i in best]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns query and right"),
        ("query,right\n", "at least one row"),
        ("text,right\na,cat\n", "expected the columns query and right"),
        ("query,right\na cat,cat|catt\n", "no emoji has the English name 'catt'"),
        ("query,right\na cat\n", "no emoji has the English name ''"),
    ],
)
def test_bad_tables_of_queries_are_explained(content, message, tmp_path):
    (tmp_path / "q.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"q\.csv: .*{message}"):
        queries.read_queries(tmp_path / "q.csv")
