"""The CUDA path on a GPU. Needs no network, no database and no embedded model; everything is random and tiny.

Runs without the suite's fixtures too: `python -m pytest -c /dev/null --rootdir . --noconftest tests/cuda`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.cuda.kernel_set import choose_kernels
from handler.engine.cuda.runner import CudaRunner
from handler.engine.events import TokenLogprob
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Manifest, Snapshot
from handler.engine.staging import Staging, move_to
from tests.engine.cuda.running import generate_ahead, sequences_with_blocks
from tests.engine.running import complete, complete_alone, greedy, run, submit
from tests.tiny_models import VARIANTS, make_model, save_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

Load = Callable[..., EngineCore]
CHUNK = 256  # tokens; a tile of the largest pages fits


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a random tiny model; keyword arguments are EngineOptions."""
    made: dict[str, Snapshot] = {}

    def load(variant: str = "llama", **options: object) -> EngineCore:
        if variant not in made:
            directory = save_model(make_model(variant), tmp_path_factory.mktemp(variant))
            manifest = Manifest(
                format_version=1, source="test", name=variant, files=(), created_at="2026-01-01T00:00:00+00:00"
            )
            made[variant] = Snapshot(directory, variant, manifest)
        defaults = {"device": "cuda", "dtype": "float32", "prefill_chunk_tokens": CHUNK}
        return load_core(made[variant], EngineOptions(**(defaults | options)), BootTimeline())

    return load


def prompts(*lengths: int, seed: int = 3) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(256) for _ in range(length)] for length in lengths]


def runner_of(core: EngineCore) -> CudaRunner:
    assert isinstance(core._runner, CudaRunner)
    return core._runner


def logprobs_of(core: EngineCore, texts: list[list[int]], *, alone: bool = False) -> list[list[TokenLogprob]]:
    ask = complete_alone if alone else complete
    return [completion.logprobs for completion in ask(core, texts, greedy(12, logprobs=5))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_says_what_the_cpu_says(variant: str, load: Load) -> None:
    texts = prompts(1, 5, 17, 64, 130, 300, 700)
    expected = complete(load(variant, device="cpu"), texts, greedy(24))
    core = load(variant)
    for _ in range(2):  # the second time with graphs
        found = complete(core, texts, greedy(24))
        assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
        for _ in range(8):
            core.idle()
    assert runner_of(core).num_graphs > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_graphs_equal_eager_steps_bit_for_bit(dtype: str, load: Load) -> None:
    core = load("qwen3", dtype=dtype)
    texts = prompts(7, 40, 100)  # too short for the prefix cache, which would make the second run's steps others
    eager = logprobs_of(core, texts)
    for _ in range(8):
        core.idle()
    assert runner_of(core).num_graphs > 0
    assert logprobs_of(core, texts) == eager


def test_a_batch_changes_no_token(load: Load) -> None:
    core = load(max_batch_size=9)
    texts = prompts(1, 30, 64, 65, 129, 256, 257, 400, 8)
    together = complete(core, texts, greedy(30))
    for completion, alone in zip(together, complete_alone(core, texts, greedy(30)), strict=True):
        assert completion.tokens == alone.tokens


def test_int8_gives_a_row_the_same_bits_in_every_batch(load: Load) -> None:
    core = load(quantization="int8", dtype="bfloat16", max_batch_size=6)
    texts = prompts(20, 3, 70, 41, 9, 33)
    assert logprobs_of(core, texts) == logprobs_of(core, texts, alone=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_running_ahead_says_what_waiting_says(dtype: str, load: Load) -> None:
    core = load(dtype=dtype, max_batch_size=4)
    texts = prompts(33, 1, 64, 7)
    kinds = [{"temperature": 0.0}, {"temperature": 0.9}, {"top_k": 20}, {"top_p": 0.8, "min_p": 0.01}]
    params = [SamplingParams(max_tokens=40, seed=5, ignore_eos=True, **kind) for kind in kinds]
    ids = [submit(core, text, own) for text, own in zip(texts, params, strict=True)]
    completions = run(core)
    ahead = generate_ahead(runner_of(core), sequences_with_blocks(texts, params, room=41), 40)
    assert ahead == [completions[number].tokens for number in ids]


def test_the_same_tokens_are_drawn_as_on_the_cpu(load: Load) -> None:
    texts = prompts(12, 40, 5)
    params = SamplingParams(max_tokens=30, temperature=0.8, top_p=0.9, seed=11, ignore_eos=True)
    expected, found = (complete(load(device=device), texts, params) for device in ("cpu", "cuda"))
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]


def test_scarce_blocks_change_no_token(load: Load) -> None:
    texts = prompts(240, 250, 200, 230)
    expected = complete(load(max_model_len=1024), texts, greedy(60))
    core = load(max_model_len=1024)
    block = runner_of(core)._cache.block_size
    wanted = -(-300 // block)
    held = [core._pool.allocate() for _ in range(core._pool.num_available - 3 * wanted)]
    found = complete(core, texts, greedy(60))
    core._pool.release([number for number in held if number is not None])
    assert core.stats().num_preemptions > 0
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]


@pytest.mark.parametrize(
    ("options", "most"), [({}, 0.1), ({"quantization": "int8"}, 0.1), ({"quantization": "fp8"}, 0.4)]
)
@pytest.mark.parametrize("variant", ["llama-biases", "qwen3-tied-biases"])
def test_fewer_bits_say_nearly_the_same(options: dict[str, str], most: float, variant: str, load: Load) -> None:
    texts = [list(range(number, number + 30)) for number in range(8)]
    exact = complete(load(variant, device="cpu"), texts, greedy(1, logprobs=20))
    rounded = complete(load(variant, dtype="bfloat16", **options), texts, greedy(1, logprobs=20))
    differences = []
    for ours, theirs in zip(rounded, exact, strict=True):
        wanted, found = dict(theirs.logprobs[0].top), dict(ours.logprobs[0].top)
        differences += [abs(found[token] - wanted[token]) for token in found.keys() & wanted.keys()]
    assert len(differences) >= 8 * 12
    assert sum(differences) / len(differences) < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_works_wherever_it_is_installed(dtype: torch.dtype, load: Load) -> None:
    pytest.importorskip("triton", reason="no Triton here")
    config = runner_of(load("mistral-window"))._decoder.config
    assert choose_kernels(config, torch.device("cuda"), dtype).name.startswith("triton")


def test_weights_arrive_as_they_were_while_the_next_are_read() -> None:
    device = torch.device("cuda")
    staging = Staging(device, 1 << 16)
    generator = torch.Generator().manual_seed(1)
    sizes = [1, 1 << 14, (1 << 14) + 1, 1 << 18, 3, 1 << 20] * 4
    tensors = [torch.randint(-100, 100, (size,), generator=generator, dtype=torch.int32) for size in sizes]
    moved = [staging.move(tensor) * 3 for tensor in tensors]  # a kernel in between, as where weights are fused
    for tensor, there in zip(tensors, moved, strict=True):
        assert torch.equal(there.cpu(), tensor * 3)


def test_what_is_there_already_is_not_copied() -> None:
    tensor = torch.ones(3, device="cuda")
    assert move_to(torch.device("cuda"))(tensor).data_ptr() == tensor.data_ptr()
