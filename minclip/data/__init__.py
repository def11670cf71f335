"""Pictures with captions: `pairs` says what they are, `emoji` and `folder` where they come from."""

from minclip.data.artists import ARTISTS, OPENMOJI, TWEMOJI, Artist
from minclip.data.emoji import LANGUAGES, Emoji, code_points, emoji_captions, load_artist, load_emoji, unseen_emoji
from minclip.data.folder import describe_problems, load_folder
from minclip.data.pairs import Pairs, hold_out
from minclip.images import (
    IMAGE_MEAN,
    IMAGE_STD,
    Origin,
    PictureFile,
    Preprocess,
    augment,
    draw_augmentation,
    load_image,
    normalize,
    picture_files,
    to_rgb,
    to_tensor,
    trim,
)

__all__ = [
    "ARTISTS",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "LANGUAGES",
    "OPENMOJI",
    "TWEMOJI",
    "Artist",
    "Emoji",
    "Origin",
    "Pairs",
    "PictureFile",
    "Preprocess",
    "augment",
    "code_points",
    "describe_problems",
    "draw_augmentation",
    "emoji_captions",
    "hold_out",
    "load_artist",
    "load_emoji",
    "load_folder",
    "load_image",
    "normalize",
    "picture_files",
    "to_rgb",
    "to_tensor",
    "trim",
    "unseen_emoji",
]
