"""`minclip export`: a model in one small file, or in the format of another project."""

import argparse
from dataclasses import replace
from pathlib import Path

from minclip import formats
from minclip.commands.common import add_run, read_run
from minclip.formats.onnx import write_onnx

WRITERS = {
    "minclip": formats.write_export,
    "hf": formats.write_hugging_face,
    "openai": formats.write_openai,
    "onnx": write_onnx,
}
DESCRIPTION = """Put a model into one file: weights in float16, tokenizer, and the options of its training.

  minclip export cat.safetensors
  minclip search "red heart" --run cat.safetensors

In Python: minclip.load("cat.safetensors"). If the model was trained on your own pictures, the options name their
folder. With --to, a new folder that another project reads, with weights in float32:

  minclip export cat --to hf        transformers: CLIPModel.from_pretrained("cat")
  minclip export cat --to openai    OpenCLIP: create_model("local-dir:cat"); OpenAI's own code if it uses QuickGELU
  minclip export cat --to onnx      image.onnx and text.onnx (pip install 'minclip[onnx]')"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dest", metavar="DEST", help="a new file or folder; nothing is overwritten")
    parser.add_argument("--to", choices=WRITERS, default="minclip", help="the format to write (default: minclip)")
    match = "lowest cosine that counts as a match, stored for --reject; `minclip eval` on an unseen artist proposes one"
    parser.add_argument("--match", type=float, metavar="COSINE", help=match)
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    path, saved = read_run(arguments)
    if arguments.match is not None:
        if arguments.to != "minclip":
            raise ValueError(f"--match is {arguments.match}; --to {arguments.to} has no place for it")
        saved = replace(saved, match=arguments.match)
    destination = Path(arguments.dest)
    WRITERS[arguments.to](saved, destination)
    files = [destination] if destination.is_file() else list(destination.iterdir())
    print(f"{path} -> {destination}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    if saved.config.image_tower:
        print(f"{destination} is read beside its image tower, which it does not hold: {saved.config.image_tower}")
    return 0
