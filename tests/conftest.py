import os

import torch
from hypothesis import settings

settings.register_profile("minclip", deadline=None, derandomize=True)
settings.load_profile("minclip")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: it decides then
