"""Triton's kernels run on a GPU where there is one, else in Triton's interpreter on the CPU, slowly and exactly.

Triton reads the variable when it is first imported, which transformers does too: so it is set before anything else.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
