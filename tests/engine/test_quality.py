"""What eight bits cost in quality, on the embedded model and a fixed text, against float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.native.decoder import NativeDecoder
from handler.engine.native.library import load_kernels
from handler.engine.native.runner import NativeRunner
from handler.engine.options import EngineOptions
from handler.engine.runner import TorchRunner
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.snapshot import Snapshot
from handler.engine.step import Chunk
from handler.errors import ConfigurationError

LICENSE = Path(__file__).parent.parent.parent / "LICENSE"
QUESTIONS = ("What is the capital of France?", "Why is the sky blue?", "Write a short story about a clever fox.")


def next_token_logprobs(core: EngineCore, tokens: list[int]) -> Tensor:
    """Log probabilities after each of `tokens`, (len(tokens), vocab_size), in one pass over all of them."""
    runner = core._runner
    block_size = 32
    table = list(range(1, 1 + -(-len(tokens) // block_size)))
    if isinstance(runner, NativeRunner):
        logits = []
        for start in range(0, len(tokens), 256):
            chunk = tokens[start : start + 256]
            logits.append(runner._decoder.forward(chunk, [(len(chunk), start, table)], list(range(len(chunk)))).clone())
        return torch.cat(logits).log_softmax(dim=-1)
    assert isinstance(runner, TorchRunner)
    cache, attention, decoder = runner._cache, runner._attention, runner._decoder
    sequence = Sequence(0, tokens, SamplingParams(max_tokens=1))
    sequence.block_table = table
    slots = torch.arange(block_size, block_size + len(tokens))
    tiles = attention.plan([Chunk(sequence, 0, len(tokens))])
    with torch.inference_mode():
        hidden = decoder.forward(torch.tensor(tokens), torch.arange(len(tokens)), slots, tiles, attention, cache)
        return decoder.logits(hidden).log_softmax(dim=-1)


def losses(logprobs: Tensor, tokens: list[int]) -> Tensor:
    """Negative log likelihood of each token but the first."""
    return -logprobs[:-1].gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)


def texts(core: EngineCore) -> list[list[int]]:
    """Two pages of legal prose, and a conversation in the model's own template."""
    tokenizer, template = core.model.tokenizer, core.model.chat_template
    assert template is not None
    messages = [{"role": role, "content": text} for text in QUESTIONS for role in ("user", "assistant")]
    prose = LICENSE.read_text(encoding="utf-8")[2000:7000]
    return [
        tokenizer.encode(prose, add_special_tokens=False),
        tokenizer.encode(template.render(messages), add_special_tokens=False),
    ]


@pytest.fixture(scope="module")
def int8_core(embedded_snapshot: Snapshot) -> EngineCore:
    """In int8 as it runs on a CPU that has the compiled kernels."""
    if load_kernels() is None:
        pytest.skip("no int8 kernels: no C compiler, or not for this CPU")
    core = load_core(embedded_snapshot, EngineOptions(device="cpu"), BootTimeline())
    assert isinstance(core._runner, NativeRunner)
    return core


@pytest.fixture(scope="module")
def int8_core_in_torch(embedded_snapshot: Snapshot) -> EngineCore:
    """In int8 as it runs on any other that is told to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeDecoder, "fits", staticmethod(lambda config: False))
        core = load_core(embedded_snapshot, EngineOptions(device="cpu", quantization="int8"), BootTimeline())
    assert isinstance(core._runner, TorchRunner)
    assert core.model.info.quantization == "int8"
    return core


@pytest.fixture(scope="module")
def fp8_core(embedded_snapshot: Snapshot) -> EngineCore:
    try:
        options = EngineOptions(device="cpu", dtype="float32", quantization="fp8")
        return load_core(embedded_snapshot, options, BootTimeline())
    except ConfigurationError as error:
        pytest.skip(str(error))


# Three bits of mantissa round every weight of so small a model far more coarsely than int8 does in a rotated basis.
@pytest.mark.parametrize(
    ("rounded_core", "most_divergence", "most_loss"),
    [("int8_core", 0.02, 0.02), ("int8_core_in_torch", 0.02, 0.02), ("fp8_core", 0.12, 0.12)],
)
def test_eight_bits_stay_close_to_float32(
    rounded_core: str,
    most_divergence: float,
    most_loss: float,
    embedded_core: EngineCore,
    request: pytest.FixtureRequest,
) -> None:
    core: EngineCore = request.getfixturevalue(rounded_core)
    divergences, exact_losses, rounded_losses = [], [], []
    for tokens in texts(embedded_core):
        exact, eight_bits = next_token_logprobs(embedded_core, tokens), next_token_logprobs(core, tokens)
        divergences.append((exact.exp() * (exact - eight_bits)).sum(dim=-1))
        exact_losses.append(losses(exact, tokens))
        rounded_losses.append(losses(eight_bits, tokens))
    assert float(torch.cat(divergences).mean()) < most_divergence  # int8 0.008, fp8 0.08 when this was written
    perplexity, exact_perplexity = (float(torch.cat(parts).mean().exp()) for parts in (rounded_losses, exact_losses))
    assert perplexity == pytest.approx(exact_perplexity, rel=most_loss)


def test_int8_still_knows_the_capital_of_france(int8_core: EngineCore) -> None:
    template = int8_core.model.chat_template
    assert template is not None
    prompt = template.render([{"role": "user", "content": QUESTIONS[0]}])
    tokens = int8_core.model.tokenizer.encode(prompt, add_special_tokens=False)
    int8_core.add(0, tokens, SamplingParams(max_tokens=20, temperature=0.0))
    text = ""
    while int8_core.has_work:
        text += "".join(event.text for _, event in int8_core.step())
    assert "Paris" in text
