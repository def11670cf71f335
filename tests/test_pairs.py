import torch
from hypothesis import given
from hypothesis import strategies as st

from minclip import data


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), unique=True, min_size=1))
def test_select_keeps_pictures_with_their_captions(owners, chosen):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    origins = [data.Emoji(letter) for letter in "ABCDE"]
    pairs = data.Pairs(images, origins, [f"{o}-{i}" for i, o in enumerate(owners)], torch.tensor(owners).long())
    part = pairs.select(chosen)
    assert part.origins == [origins[p] for p in chosen]
    assert part.captions == [c for c in pairs.captions if int(c[0]) in chosen]
    for caption, picture in zip(part.captions, part.image_of_caption.tolist(), strict=True):
        assert part.images[picture, 0, 0, 0] == int(caption[0])


def test_joined_sets_keep_their_pictures_and_captions_together():
    parts = []
    for number, letters in enumerate(["AB", "", "CDE"]):
        images = torch.full((len(letters), 3, 2, 2), number, dtype=torch.uint8)
        owners = torch.arange(len(letters)).repeat(2)
        parts.append(data.Pairs(images, [data.Emoji(x) for x in letters], [*letters, *letters], owners))
    joined = data.Pairs.join(parts)
    assert joined.origins == [data.Emoji(letter) for letter in "ABCDE"]
    assert joined.captions == list("ABABCDECDE")
    assert joined.image_of_caption.tolist() == [0, 1, 0, 1, 2, 3, 4, 2, 3, 4]
    assert joined.images[:, 0, 0, 0].tolist() == [0, 0, 2, 2, 2]


def test_equal_pictures_become_one_with_the_captions_of_all():
    images = torch.tensor([0, 1, 0, 2, 1], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    origins, captions = [data.Emoji(letter) for letter in "ABCDE"], ["a", "b", "c", "d", "e", "also a"]
    merged = data.Pairs(images, origins, captions, torch.tensor([0, 1, 2, 3, 4, 0])).merge_equal_pictures()
    assert merged.origins == [data.Emoji(letter) for letter in "ABD"]
    assert merged.captions == captions
    assert merged.image_of_caption.tolist() == [0, 1, 0, 2, 1, 0]
    assert merged.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_held_out_picture_stays_held_out_whatever_comes_and_goes():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    origins = [data.Emoji(f"{i:X}") for i in range(400)]
    everything = data.Pairs(images, origins, [str(i) for i in range(400)], torch.arange(400))
    train, aside = data.hold_out(everything)
    assert aside is not None
    assert 20 <= len(aside) <= 60  # 40 expected
    assert len(train.origins) + len(aside.origins) == 400
    assert {*train.origins, *aside.origins} == set(origins)
    part_train, part_aside = data.hold_out(everything.select(list(range(399, 0, -2))))
    assert part_aside is not None
    assert set(part_train.origins) <= set(train.origins)
    assert set(part_aside.origins) <= set(aside.origins)
    one = everything.select([0])
    assert data.hold_out(one) == (one, None)


def test_equal_pictures_are_on_one_side_and_none_is_lost():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, :, :1] = images[:, :1] = 255  # the same border, in every picture
    twice = images.repeat_interleave(2, dim=0)
    names = [f"{i:X}" for i in range(800)]
    train, aside = data.hold_out(data.Pairs(twice, [data.Emoji(name) for name in names], names, torch.arange(800)))
    assert aside is not None
    assert sorted(train.captions + aside.captions) == sorted(names)
    assert 40 <= len(aside) <= 120  # 80 expected
    held_out = {int(name, 16) for name in aside.captions}
    assert {row ^ 1 for row in held_out} == held_out
