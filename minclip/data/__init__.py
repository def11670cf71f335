"""Pictures with captions: `pairs` says what they are, `emoji` and `folder` where they come from, `streamed` how they
are read when there are too many for the memory."""

from minclip.augmentation import augment, draw_augmentation
from minclip.data.artists import ARTISTS, OPENMOJI, TWEMOJI, Artist, code_points
from minclip.data.emoji import (
    FURTHER,
    LANGUAGES,
    Emoji,
    emoji_captions,
    emoji_group,
    emoji_names,
    is_basic,
    load_artist,
    load_emoji,
    unseen_emoji,
    without_tone,
)
from minclip.data.folder import Found, describe_problems, find_pairs, load_folder, load_found
from minclip.data.font import FontArtist
from minclip.data.labelled import Labelled, load_emoji_groups, load_labelled
from minclip.data.memory import Reading
from minclip.data.pairs import Pairs, digests, hold_out
from minclip.data.phrasing import phrasings
from minclip.data.streamed import Streamed
from minclip.images import (
    IMAGE_MEAN,
    IMAGE_STD,
    Origin,
    PictureFile,
    Preprocess,
    load_image,
    normalize,
    picture_files,
    to_rgb,
    to_tensor,
    trim,
)

__all__ = [
    "ARTISTS",
    "FURTHER",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "LANGUAGES",
    "OPENMOJI",
    "TWEMOJI",
    "Artist",
    "Emoji",
    "FontArtist",
    "Found",
    "Labelled",
    "Origin",
    "Pairs",
    "PictureFile",
    "Preprocess",
    "Reading",
    "Streamed",
    "augment",
    "code_points",
    "describe_problems",
    "digests",
    "draw_augmentation",
    "emoji_captions",
    "emoji_group",
    "emoji_names",
    "find_pairs",
    "hold_out",
    "is_basic",
    "load_artist",
    "load_emoji",
    "load_emoji_groups",
    "load_folder",
    "load_found",
    "load_image",
    "load_labelled",
    "normalize",
    "phrasings",
    "picture_files",
    "to_rgb",
    "to_tensor",
    "trim",
    "unseen_emoji",
    "without_tone",
]
