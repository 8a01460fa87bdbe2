"""Which failures of a step leave a device that only a new process mends. Knows messages, not the libraries."""

from __future__ import annotations

import re

_LOST = re.compile(
    r"(?:CUDA|HIP|Triton|cuDNN|cuBLAS|NVML)\b.*\berror|device-side assert|unspecified launch failure|"
    r"illegal (?:memory access|instruction|address)|misaligned address|CUBLAS_STATUS_|CUDNN_STATUS_|"
    r"uncorrectable|device (?:was|is) lost|no CUDA-capable device",
    re.IGNORECASE | re.DOTALL,
)
_OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|cannot allocate|not enough memory", re.IGNORECASE)


def is_device_lost(error: BaseException) -> bool:
    """Whether the error, or one that it came from, says that the device can compute nothing any more.

    An error of a kernel stays with CUDA's context: every later call returns it again ("sticky", CUDA Runtime API,
    "Error Handling"). torch reports it as a RuntimeError or an AcceleratorError whose text begins with "CUDA error:",
    and Triton as a RuntimeError with "Triton Error [CUDA]:". Memory that could not be had is no such error.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    texts = [str(each) for each in chain if isinstance(each, RuntimeError)]
    return any(_LOST.search(text) and not _OUT_OF_MEMORY.search(text) for text in texts)
