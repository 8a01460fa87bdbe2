"""What several tests of the engine use: transformers' own models, and how they are loaded without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import transformers

from handler.engine.snapshot import Snapshot

DEFAULT_THREADS = torch.get_num_threads()

LoadReference = Callable[[Snapshot], transformers.PreTrainedModel]


@pytest.fixture(scope="session")
def load_reference() -> LoadReference:
    """The same snapshot in transformers, in float32 on the CPU."""

    def load(snapshot: Snapshot) -> transformers.PreTrainedModel:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            snapshot.directory, dtype=torch.float32, local_files_only=True
        )
        return model.eval()

    return load


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that waking a second thread costs more than it does, and far more on a busy machine."""
    with num_threads(1):
        yield


@pytest.fixture(scope="module")
def several_threads(one_thread: None) -> Iterator[None]:
    """For modules that compare bits: some kernels round differently in different threads."""
    with num_threads(max(2, DEFAULT_THREADS)):
        yield


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)
