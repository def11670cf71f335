import runpy
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minclip import augmentation, images
from minclip.images import Preprocess

SIZE = 24


def augmented(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    changes = augmentation.draw_augmentation(len(pixels), torch.Generator().manual_seed(seed), "strong")
    return augmentation.augment(pixels, changes)


def picture(width: int = 30, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    return [image.getpixel((2, 2)), image.getpixel((width - 3, height - 3))]  # pyright: ignore[reportReturnType]


def test_cmyk(tmp_path):
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    left, right = corners(images.load_image(tmp_path / "a.jpg"))
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(grey).save(tmp_path / "a.png")
    values = np.asarray(images.load_image(tmp_path / "a.png"))
    assert abs(values[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_depth_is_told_by_the_mode_and_not_by_the_brightest_pixel(tmp_path):
    Image.fromarray(np.full((4, 4), 514, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert images.load_image(tmp_path / "dark.png").getpixel((0, 0)) == (2, 2, 2)
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    assert images.load_image(tmp_path / "float.tiff").getpixel((0, 0)) == (128, 128, 128)


def test_palette_with_alpha_lands_on_white(tmp_path):
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 15, 20))
    image.quantize(8).save(tmp_path / "a.png")
    assert corners(images.load_image(tmp_path / "a.png")) == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "I", "F"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / ("a.tiff" if mode in "IF" else "a.png")
    picture().convert(mode).save(path)
    assert images.load_image(path).mode == "RGB"
    assert images.load_image(path).size == (30, 20)


def test_animations_give_their_first_frame(tmp_path):
    frames = [picture(), Image.new("RGB", (30, 20), "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corners(images.load_image(tmp_path / "a.gif")) == [(255, 0, 0), (0, 0, 255)]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture().save(tmp_path / "a.png", exif=exif)
    assert corners(images.load_image(tmp_path / "a.png")) == [(0, 0, 255), (255, 0, 0)]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2)])
def test_tiny_and_narrow_pictures_work(size, tmp_path):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    tensor = images.to_tensor(images.load_image(tmp_path / "a.png"), SIZE)
    assert tensor.shape == (3, SIZE, SIZE)
    assert tensor.float().mean(dim=(1, 2)).tolist() == [255, 0, 0]


def damaged_pictures(folder: Path) -> dict[str, str]:
    """File name -> part of the message it must get."""
    picture(300, 200).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    picture(300, 200).save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:80])
    (folder / "zero.png").touch()
    (folder / "text.png").write_text("this is not a picture")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated|broken|incomplete",
        "zero.png": "empty",
        "text.png": "cannot identify",
    }


def test_damaged_pictures_are_named(tmp_path):
    for name, message in damaged_pictures(tmp_path).items():
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a picture: .*({message})"):
            images.load_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such picture"):
        images.load_image(tmp_path / "none.png")


def test_to_tensor_takes_the_central_square():
    tensor = images.to_tensor(picture(300, 100), 50)  # columns 100 to 200 of 300: half red, half blue
    assert tensor[0, 25, 5] == 255
    assert tensor[2, 25, 45] == 255
    assert torch.equal(tensor[0, 25] > 128, torch.arange(50) < 25)


# --- cutting to the ink -----------------------------------------------------------------------------------------------


def drawing(size: int = 100, box=(10, 20, 50, 40), ground="white") -> Image.Image:
    """A red box, given by its left, top, right and bottom edges, on a plain ground."""
    image = Image.new("RGB", (size, size), ground)
    image.paste("red", box)
    return image


@pytest.mark.parametrize("ground", ["white", "black", (30, 90, 160)])
def test_a_drawing_is_cut_to_a_square_around_its_ink(ground):
    cut = images.trim(drawing(ground=ground))
    assert cut.size == (43, 43)  # 40, and 4 % on each side
    is_red = (np.asarray(cut) == (255, 0, 0)).all(axis=2)
    assert is_red.sum() == 40 * 20
    assert [*np.flatnonzero(is_red.any(0))[[0, -1]], *np.flatnonzero(is_red.any(1))[[0, -1]]] == [1, 40, 11, 30]
    assert cut.getpixel((0, 0)) == drawing(ground=ground).getpixel((0, 0))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(8, 40), st.integers(8, 40))
def test_where_and_how_large_something_is_drawn_does_not_matter(x, y, width, height):
    """The same box moved, or drawn at twice the size, gives the same picture."""
    cut = images.trim(drawing(110, (5, 5, 5 + width, 5 + height)))
    assert images.trim(drawing(110, (x, y, x + width, y + height))).tobytes() == cut.tobytes()
    twice = images.trim(drawing(220, (2 * x, 2 * y, 2 * (x + width), 2 * (y + height))))
    assert abs(twice.width - 2 * cut.width) <= 1


def test_jpeg_noise_is_no_ink(tmp_path):
    drawing(400, (40, 80, 200, 160)).save(tmp_path / "a.jpg", quality=75)
    assert 173 <= images.trim(images.load_image(tmp_path / "a.jpg")).width <= 177


def test_a_drawing_that_touches_the_edge_is_cut_and_photographs_are_left_alone():
    assert images.trim(drawing(box=(0, 30, 100, 60))).size == (108, 108)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    gradient = np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2)
    for pixels in (noise, gradient):
        photograph = Image.fromarray(pixels)
        assert images.trim(photograph) is photograph


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 7)])
def test_a_plain_picture_has_no_ink_and_is_left_alone(size):
    plain = Image.new("RGB", size, "navy")
    assert images.trim(plain) is plain


def test_transparency_is_ground():
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 20, 50, 40))
    assert torch.equal(Preprocess(43, trim=True).pixels(image), images.to_tensor(images.trim(drawing()), 43))


def test_only_a_model_that_wants_it_cuts():
    assert torch.equal(Preprocess(SIZE).pixels(drawing()), images.to_tensor(drawing(), SIZE))
    cut = images.to_tensor(images.trim(drawing()), SIZE)
    assert torch.equal(Preprocess(SIZE, trim=True).pixels(drawing()), cut)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_is_reproducible_and_different_for_every_picture():
    pixels = images.to_tensor(picture(), SIZE).expand(4, 3, SIZE, SIZE)
    first, again = (augmented(pixels, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == pixels.shape
    assert first.dtype == torch.float32
    assert not any(torch.allclose(first[i], first[j], atol=3) for i in range(4) for j in range(i))


def test_a_part_of_a_batch_is_augmented_to_the_same_bits():
    pixels = torch.randint(0, 256, (13, 3, 31, 31), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changes = augmentation.draw_augmentation(13, torch.Generator().manual_seed(0))
    whole = augmentation.augment(pixels, changes)
    for size in (1, 2, 5):
        parts = [augmentation.augment(*part) for part in zip(pixels.split(size), changes.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)


SAME = torch.tensor([1.0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0])  # as many as `draw_augmentation` draws
MOVE, COLOUR, BLUR = slice(0, 6), slice(6, 18), slice(18, 19)


def changed(pixels: torch.Tensor, part: slice) -> torch.Tensor:
    """Pictures under one part of the augmentation."""
    changes = SAME.repeat(len(pixels), 1)
    changes[:, part] = augmentation.draw_augmentation(len(pixels), torch.Generator().manual_seed(0), "strong")[:, part]
    return augmentation.augment(pixels, changes)


def test_augmentation_does_not_normalise():
    """Without any change the pixels come back as they were."""
    pixels = images.to_tensor(picture(), SIZE)[None]
    torch.testing.assert_close(augmentation.augment(pixels, SAME[None]), pixels.float(), rtol=0, atol=1e-3)


def test_augmentation_never_mirrors():
    """Red on the left stays on the left: "facing right" is a caption."""
    moved = changed(images.to_tensor(picture(), SIZE).expand(200, 3, SIZE, SIZE), MOVE)
    red_minus_blue = moved[:, 0] - moved[:, 2]
    half = SIZE // 2
    assert (red_minus_blue[:, :, :half].mean((1, 2)) > red_minus_blue[:, :, half:].mean((1, 2)) + 70).all()


def test_augmentation_repeats_the_edge_and_moves_little():
    """A plain picture stays plain to its corners; a dot in the middle stays near the middle."""
    moved = augmented(torch.full((50, 3, SIZE, SIZE), 200, dtype=torch.uint8), seed=0)
    assert (moved.amax((2, 3)) - moved.amin((2, 3))).max() < 1e-2
    spots = torch.zeros(200, 3, 48, 48, dtype=torch.uint8)
    spots[:, :, 20:28, 20:28] = 255
    mass = changed(spots, MOVE)[:, 0] > 190
    places = torch.arange(48.0) - 23.5
    offset = torch.stack([(mass.sum(2) * places).sum(1), (mass.sum(1) * places).sum(1)]) / mass.sum((1, 2))
    assert 1 < offset.abs().max() < 3  # 6 % of half the width in either direction


def test_recolouring_leaves_grey_grey_and_a_share_without_any_colour():
    grey = torch.full((400, 3, 4, 4), 100, dtype=torch.uint8)
    recoloured = changed(grey, COLOUR)
    torch.testing.assert_close(recoloured, recoloured[:, :1].expand_as(recoloured), rtol=0, atol=1e-3)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(400, 3, 4, 4)
    recoloured = changed(red, COLOUR)
    is_grey = (recoloured.amax(1) - recoloured.amin(1)).amax((1, 2)) < 1e-3
    assert 0.12 < is_grey.double().mean() < 0.28


def test_blurring_and_sharpening_keep_the_mean_and_change_the_contrast_of_neighbours():
    board = 100 + 50 * (torch.arange(8)[:, None] + torch.arange(8)).remainder(2)  # a chessboard
    board = board.to(torch.uint8).expand(400, 3, 8, 8)
    inside = changed(board, BLUR)[:, 0, 2:-2, 2:-2]
    spread = inside.amax((1, 2)) - inside.amin((1, 2))
    assert {round(value) for value in spread.unique().tolist()} == {0, 50, 100}
    torch.testing.assert_close(inside.mean((1, 2)), torch.full((400,), 125.0))


# --- OpenAI's preprocessing ---------------------------------------------------------------------------------------


GOLDEN = runpy.run_path(str(Path(__file__).with_name("golden_preprocess.py")))


def test_the_pixels_are_those_of_torchvision():
    """Resize(R, bicubic) and CenterCrop(R), made by `golden_preprocess.py`; to 1 of 255, whatever Pillow rounds."""
    expected = np.load(Path(__file__).with_name("golden_preprocess.npz"))
    assert len(expected) == 22
    for name, pixels in expected.items():
        size, resolution = name.split(" to ")
        picture = GOLDEN["picture"](*map(int, size.split("x")))
        ours = images.to_tensor(picture, int(resolution)).permute(1, 2, 0)
        torch.testing.assert_close(ours.int(), torch.from_numpy(pixels).int(), rtol=0, atol=1, msg=name)


def test_a_line_of_pixels_does_not_become_gigabytes():
    """OpenAI's preprocessing would make 224 × 22,400,000 pixels of this; the ends are in no crop."""
    line = Image.new("RGB", (100_000, 1), "red")
    line.putpixel((50_000, 0), (0, 0, 255))
    pixels = images.to_tensor(line, 224)
    assert pixels.shape == (3, 224, 224)
    assert pixels[2].float().mean() > 100


# --- what the model reads ---------------------------------------------------------------------------------------------


def test_normalize_is_openais():
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    expected = [[-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]]
    expected.append([(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711])
    torch.testing.assert_close(images.normalize(black_and_white)[:, :, 0, 0], torch.tensor(expected))


def test_preprocess_uses_its_own_size_mean_and_standard_deviation():
    half = Preprocess(8, (0.0, 0.0, 0.0), (0.5, 0.25, 1.0))
    prepared = half(Image.new("RGBA", (30, 20), (255, 255, 255, 255)))
    assert prepared.shape == (3, 8, 8)
    assert prepared[:, 0, 0].tolist() == [2, 4, 1]
    assert torch.equal(half.normalize(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))[0], prepared)


def test_pictures_are_read_in_order_and_a_few_at_a_time(tmp_path, monkeypatch):
    """Of a folder of any size, only as many pictures are decoded as may be held."""
    monkeypatch.setattr(images, "READ_AHEAD", 4)
    for i in range(3):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(tmp_path / f"{i}.png")
    asked = []

    def paths():
        for i in range(1000):
            asked.append(i)
            yield images.PictureFile(tmp_path / f"{i % 4}.png")

    results = images.read_pictures(paths(), Preprocess(2))
    first = [next(results) for _ in range(4)]
    assert [int(pixels[0, 0, 0]) for pixels in first[:3] if isinstance(pixels, torch.Tensor)] == [0, 1, 2]
    assert isinstance(first[3], FileNotFoundError)
    assert len(asked) == 4


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path):
    """A PNG of 300 bytes that claims 50,000 × 50,000 pixels: the names of its chunks are right, and so are its sums."""
    (tmp_path / "bomb.png").write_bytes(png_of_size(50_000, 50_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.png: cannot be read as a picture: Image size \(2500000000 pixels\)"):
        images.load_image(tmp_path / "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def png_of_size(width: int, height: int) -> bytes:
    """A small, valid beginning of a PNG of any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow would hand this to Ghostscript, although it is called a JPEG."""
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be read as a picture: cannot identify"):
        images.load_image(tmp_path / "a.jpg")
    assert started == []
    monkeypatch.setattr(images, "_formats", lambda: None)  # as Pillow would do it
    with pytest.raises(ValueError, match=r"a\.jpg"):
        images.load_image(tmp_path / "a.jpg")
    assert started


def test_a_file_as_an_origin(tmp_path):
    picture(300, 200).save(tmp_path / "a.png")
    origin = images.PictureFile(tmp_path / "a.png")
    assert origin.open(60).size == (60, 40)
    assert str(origin) == str(tmp_path / "a.png")
    assert origin.credit is None
