"""Pictures with captions: `pairs` says what they are, `emoji` and `folder` where they come from."""

from minclip.data.emoji import (
    EMOJI_CREDIT,
    LANGUAGES,
    Emoji,
    code_points,
    emoji_captions,
    load_emoji,
    render_emoji,
    unseen_emoji,
)
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
)

__all__ = [
    "EMOJI_CREDIT",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "LANGUAGES",
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
    "load_emoji",
    "load_folder",
    "load_image",
    "normalize",
    "picture_files",
    "render_emoji",
    "to_rgb",
    "to_tensor",
    "unseen_emoji",
]
