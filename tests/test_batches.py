import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minclip.augmentation import augment, draw_augmentation
from minclip.batches import Batches, Order, counter_generator
from minclip.data import Emoji, Pairs
from minclip.distributed import World
from minclip.images import Preprocess

N, R = 23, 12


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Twelve pictures with one or two captions each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, R, R), dtype=torch.uint8, generator=generator)
    return Pairs(images, [Emoji(f"{i:04X}") for i in range(12)], [str(i) for i in range(N)], torch.arange(N) // 2)


def batches(pairs: Pairs, batch_size: int = 5, seed: int = 0) -> Batches:
    tokens = torch.stack([torch.arange(N), torch.full((N,), 100)], dim=1)  # (N, 2): a token of its own, and the end
    return Batches(pairs, tokens, Preprocess(R), batch_size=batch_size, seed=seed)


@st.composite
def sizes(draw) -> tuple[int, int]:
    """A number of pairs, and a batch size that they fill."""
    pairs = draw(st.integers(1, 70))
    return pairs, draw(st.integers(1, pairs))


@given(sizes(), st.integers(1, 5), st.integers(1, 12), st.integers(0, 3))
def test_every_pair_is_seen_once_an_epoch_by_one_of_the_processes(sizes, processes, epochs, seed):
    """And no batch, of which all have one size, has a pair twice."""
    pairs, batch_size = sizes
    order, seen = Order(pairs, batch_size, seed), []
    shards = World(0, processes).shards(batch_size)
    for step in range(math.ceil(epochs * pairs / batch_size)):
        batch = order.batch(step).tolist()
        assert len(set(batch)) == batch_size
        seen += [pair for shard in shards for pair in batch[shard]]
    for epoch in range(epochs):
        assert sorted(seen[epoch * pairs : (epoch + 1) * pairs]) == list(range(pairs))
    assert len(seen) < epochs * pairs + batch_size


@given(sizes(), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_batch_does_not_depend_on_what_was_asked_before(sizes, steps):
    order = Order(*sizes, seed=0)
    for step in steps:
        assert torch.equal(order.batch(step), Order(*sizes, seed=0).batch(step))


@pytest.mark.parametrize("batch_size", [4, 7, 9, 12])
def test_every_order_is_as_likely(batch_size):
    """Of twelve pairs: each stands as often in each place of the third epoch, and as often before each other one."""
    orders = torch.stack([Order(12, batch_size, seed).epoch(2) for seed in range(3000)])  # (3000, 12)
    places = torch.stack([column.bincount(minlength=12) for column in orders.T]) / 3000
    torch.testing.assert_close(places, torch.full((12, 12), 1 / 12), rtol=0, atol=0.025)  # 5 standard deviations
    place_of = orders.argsort(dim=1)
    is_before = (place_of[:, :, None] < place_of[:, None, :]).float().mean(dim=0) + torch.eye(12) / 2
    torch.testing.assert_close(is_before, torch.full((12, 12), 0.5), rtol=0, atol=0.046)


def test_epochs_have_different_orders_and_a_training_ends_with_the_last_of_them(pairs):
    made = batches(pairs)
    assert [made.steps(epochs) for epochs in (1, 2, 5)] == [5, 10, 23]
    epochs = torch.cat([made.rows(step) for step in range(15)])[: 3 * N].view(3, N).tolist()
    assert epochs[0] != epochs[1] != epochs[2]


def test_pictures_and_tokens_belong_together(pairs):
    """The same pixels, changed as the counters say, for the same captions."""
    made = batches(pairs)
    images, tokens = made.make(6, "cpu")
    captions = tokens[:, 0]
    assert torch.equal(captions, made.rows(6))
    changes = draw_augmentation(5, counter_generator(0, 1, 6))
    assert torch.equal(images, Preprocess(R).normalize(augment(pairs.images[captions // 2], changes)))


@given(st.integers(0, 40), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 23))
def test_pictures_and_tokens_depend_on_seed_and_step_and_not_on_what_was_made_before(pairs, step, before, batch_size):
    expected = batches(pairs, batch_size).make(step, "cpu")
    made = batches(pairs, batch_size)
    for other in before:
        made.make(other, "cpu")
    assert all(map(torch.equal, made.make(step, "cpu"), expected))


@given(st.integers(1, 6), st.integers(0, 9))
def test_a_batch_made_one_micro_batch_at_a_time_has_the_same_bits(pairs, size, step):
    made = batches(pairs, 11)
    whole = made.make(step, "cpu")
    parts = [made.make(step, "cpu", slice(start, start + size)) for start in range(0, 11, size)]
    for part, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(part), expected)


def test_another_seed_gives_another_order_and_other_pictures(pairs):
    one, other = batches(pairs, N), batches(pairs, N, seed=1)
    assert one.rows(0).tolist() != other.rows(0).tolist()
    assert not torch.equal(one.make(0, "cpu")[0], other.make(0, "cpu")[0])


def test_order_and_augmentation_do_not_share_random_numbers():
    drawn = [torch.rand(4, generator=counter_generator(*counters)).tolist() for counters in ((0, 0, 1), (0, 1, 1))]
    assert drawn[0] != drawn[1]
    assert counter_generator(2**63 - 1, 1, 0).initial_seed() != counter_generator(0, 1, 0).initial_seed()


def test_the_floor_is_that_of_the_rows(pairs):
    """Two captions of a picture cannot be told apart by it: 11 of the 12 pictures stand twice in a whole epoch."""
    made = batches(pairs, N)
    assert made.floor(0, "clip") == pytest.approx(22 / 23 * torch.tensor(2.0).log().item())


def test_captions_are_equal_if_they_read_alike_in_this_step(pairs):
    """All share their second way to be said; whether a row reads it changes from step to step."""
    tokens = torch.stack([torch.arange(N), torch.full((N,), 99)])[:, :, None]
    made = Batches(pairs, tokens, Preprocess(R), batch_size=N, seed=0)
    for step in range(20):
        read, ids = made.make(step, "cpu")[1][:, 0], made.caption_ids(step)
        assert torch.equal(read[:, None] == read, ids[:, None] == ids)
        assert made.floor(step, "clip") > 0 == made.floor(step, "clip", "drop")
        alike = (read == 99).sum().double()
        assert made.floor(step, "clip", "all") == pytest.approx((torch.xlogy(alike, alike) / N).item())


def test_a_batch_larger_than_the_data_is_refused(pairs):
    with pytest.raises(ValueError, match="batch_size is 24; it must be at most 23"):
        batches(pairs, 24)


@pytest.mark.parametrize("rephrase", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_the_rows_reads_one_of_the_other_ways_to_say_its_caption(rephrase, pairs):
    tokens = torch.arange(5)[:, None, None].expand(5, N, 3)  # a way to say a caption is its number
    batches = Batches(pairs, tokens, Preprocess(R), batch_size=N, seed=0, rephrase=rephrase)
    read = torch.cat([batches.make(step, "cpu")[1][:, 0] for step in range(400)])
    shares = read.bincount(minlength=5) / len(read)
    torch.testing.assert_close(shares, torch.tensor([1 - rephrase, *[rephrase / 4] * 4]), rtol=0, atol=0.02)
    assert torch.equal(batches.make(3, "cpu")[1][10:20], batches.make(3, "cpu", slice(10, 20))[1])


def test_with_one_way_to_say_it_a_caption_is_read_as_it_is(pairs):
    made = Batches(pairs, torch.ones(N, 3, dtype=torch.int64), Preprocess(R), batch_size=N, seed=0, rephrase=1.0)
    assert made.phrasings(0).eq(0).all()
