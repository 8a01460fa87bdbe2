from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.staging import Staging, move_to

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=3), st.sampled_from(DTYPES), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(8, 200),
)
def test_tensors_arrive_as_they_were_however_the_chunks_fall(
    kinds: list[tuple[list[int], torch.dtype, bool]], chunk_bytes: int
) -> None:
    staging = Staging(CPU, chunk_bytes)
    for shape, dtype, is_turned in kinds:
        tensor = torch.randint(0, 2, shape).to(dtype)
        if is_turned:
            tensor = tensor.t() if tensor.dim() == 2 else tensor
        moved = staging.move(tensor)
        assert moved.dtype == dtype
        assert moved.shape == tensor.shape
        assert torch.equal(moved.float(), tensor.float())
        assert not moved.numel() or moved.data_ptr() != tensor.data_ptr()


def test_what_stays_on_the_cpu_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert move_to(CPU)(tensor).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("num_bytes", [1, 7])
def test_a_chunk_need_not_hold_whole_numbers(num_bytes: int) -> None:
    tensor = torch.arange(100, dtype=torch.float32)
    assert torch.equal(Staging(CPU, num_bytes).move(tensor), tensor)
