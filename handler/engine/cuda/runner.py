"""Steps on a CUDA device: launched without waiting, decoding ones as graphs, tokens chosen where they are needed next.

The device keeps block tables and each sequence's last token (see `slots.py`); a step sends one buffer of numbers and
brings back one of tokens. Owned by the engine thread. Runs on the CPU too, where it is tested.

Which rounding a matrix product has may depend on how many rows it is given: that is the library's choice, not ours.
Attention and everything elementwise treat a row the same in every batch.
"""

from __future__ import annotations

from functools import partial

import msgspec
import torch
from torch import Tensor

from handler.engine.cuda.assembly import Assembly
from handler.engine.cuda.attention import DecodeRows, PagedKernels, Prompts, StepPlan
from handler.engine.cuda.buckets import Buckets
from handler.engine.cuda.clock import HostClock
from handler.engine.cuda.graphs import Capture, LazyGraphs
from handler.engine.cuda.inputs import DeviceInputs, Layout
from handler.engine.cuda.kernel_set import KernelSet
from handler.engine.cuda.link import Link
from handler.engine.cuda.pending import FetchedScores, HostChoice, LaunchedStep
from handler.engine.cuda.sampling import Mode, choose
from handler.engine.cuda.slots import SlotTable
from handler.engine.kv_cache import KvCache
from handler.engine.logprobs import Scores, score_hidden, scored_chunks
from handler.engine.model import Decoder
from handler.engine.sampler import Sampler
from handler.engine.step import Batch, Chunk


class Shape(msgspec.Struct, frozen=True):
    """What the launches of a step depend on, beside the numbers in its buffer."""

    layout: Layout
    num_decode_rows: int
    mode: Mode
    keeps_logits: bool
    spans: tuple[tuple[int, int], ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What a step leaves on the device: chosen tokens (C,) int64, and logits (C, vocab_size) float32 if wanted.

    A graph's result keeps its memory from the other graphs for good: too much for logits that nobody reads.
    """

    tokens: Tensor
    logits: Tensor | None


class CudaRunner:
    """Runs steps on one device.

    Args:
        decoder: made with the kernel set's elementwise kernels.
        cache: with blocks of the kernel set's size.
        kernels: the device's kernels.
        sampler: for sequences whose tokens the host must choose.
        capture: makes graphs.
        device: where all of them live.
        max_batch_size: sequences that run together, and rows of the largest graph.
        max_blocks: of one sequence.
    """

    runs_ahead = True

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        kernels: KernelSet,
        sampler: Sampler,
        capture: Capture,
        *,
        device: torch.device,
        max_batch_size: int,
        max_blocks: int,
    ) -> None:
        num_slots = 2 * max_batch_size
        self._decoder = decoder
        self._cache = cache
        self._kernels = kernels
        self._sampler = sampler
        self._attention = PagedKernels(decoder.config.sliding_windows, kernels.decode, kernels.prompt)
        self._link = Link(device)
        self._slots = SlotTable(num_slots, max_blocks)
        self._buckets = Buckets(max_batch_size)
        self._graphs = LazyGraphs[Result](capture)
        self._tables = torch.zeros(num_slots + 1, max_blocks, dtype=torch.int32, device=device)
        self._last_tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        most_words = sum(Layout(max_batch_size, max_batch_size, 0, num_slots * max_blocks).sizes())
        self._buffer = torch.zeros(most_words, dtype=torch.int32, device=device)
        self.clock = HostClock()

    @property
    def num_graphs(self) -> int:
        """Shapes of steps that are replayed."""
        return self._graphs.num_captured

    @torch.inference_mode()
    def launch(self, batch: Batch) -> LaunchedStep:
        """Begin to compute all chunks of `batch`; what is not known yet must come from the step before."""
        with self.clock.working():
            self.clock.num_steps += 1
            step = Assembly(self._slots)
            for chunk in sorted(batch, key=_is_prompt):
                step.add(chunk)
            step.inputs.places, step.inputs.blocks = self._slots.take_changes()
            bucket = None if step.spans else self._buckets.fitting(step.num_decode_rows)
            scores: list[FetchedScores] = []
            if bucket is None:
                result, hidden = self._run_eagerly(step)
                scores = self._score(hidden, step, batch)
            else:
                result = self._run_bucket(step, bucket)
            host_choice = None
            if result.logits is not None:
                # A copy, because the next step may write its logits into the same memory.
                copy = result.logits[torch.tensor(step.host_choices).to(result.logits.device, non_blocking=True)]
                host_choice = HostChoice(self._sampler, step.host_sequences, copy, self._link.beside)
            fetched, finished = self._link.fetch(result.tokens)
            return LaunchedStep(fetched, finished, step.draws, host_choice, scores, self.clock)

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Zero the blocks: attention weighs what is left behind a sequence's last token by zero, which keeps NaN."""
        self._cache.clear(blocks)

    @torch.inference_mode()
    def idle(self) -> None:
        """Capture one graph that was wanted."""
        self._graphs.idle()

    def _run_bucket(self, step: Assembly, bucket: int) -> Result:
        """A step of single rows, filled up to `bucket` rows, each of which gets a token."""
        step.inputs.pad(bucket)
        words = self._link.stage(step.inputs.words())
        self._buffer[: len(words)].copy_(words, non_blocking=True)
        if step.inputs.places:
            self._apply_changes(DeviceInputs.read(self._buffer, step.inputs.layout))
        shape = Shape(Layout(bucket, bucket), bucket, step.mode, bool(step.host_sequences))
        return self._graphs.run(shape, partial(self._compute_buffer, shape))

    def _run_eagerly(self, step: Assembly) -> tuple[Result, Tensor]:
        """Any step, with tokens only for the rows that need one, and the hidden states of all rows."""
        layout = step.inputs.layout
        inputs = DeviceInputs.read(self._link.send(step.inputs.words()), layout)
        if step.inputs.places:
            self._apply_changes(inputs)
        shape = Shape(layout, step.num_decode_rows, step.mode, bool(step.host_sequences), tuple(step.spans))
        hidden = self._hidden(inputs, shape)
        return self._choose(hidden, inputs, shape), hidden

    def _score(self, hidden: Tensor, step: Assembly, batch: Batch) -> list[FetchedScores]:
        """What `prompt_logprobs` ask for, on its way to the host."""
        fetched = []
        for chunk, offsets, wanted, num_top in scored_chunks(batch):
            first = step.first_row_of[chunk.sequence] + offsets.start
            tokens = torch.tensor(wanted).to(hidden.device, non_blocking=True)
            scores = score_hidden(hidden[first : first + len(offsets)], self._decoder.logits, tokens, num_top)
            parts = [self._link.fetch(getattr(scores, field)) for field in Scores.__struct_fields__]
            on_host = Scores(*(copy for copy, _ in parts))
            fetched.append(FetchedScores(chunk.sequence, on_host, parts[-1][1]))
        return fetched

    def _apply_changes(self, inputs: DeviceInputs) -> None:
        """Bring the block tables up to date."""
        self._tables.view(-1).index_copy_(0, inputs.places.long(), inputs.blocks)

    def _compute_buffer(self, shape: Shape) -> Result:
        """The step whose numbers are in the buffer."""
        inputs = DeviceInputs.read(self._buffer, shape.layout)
        return self._choose(self._hidden(inputs, shape), inputs, shape)

    def _hidden(self, inputs: DeviceInputs, shape: Shape) -> Tensor:
        """Run all layers: hidden states (T, hidden_size)."""
        block_tokens = self._cache.block_size
        tokens = torch.where(inputs.sources > 0, self._last_tokens[inputs.sources], inputs.tokens)
        positions = inputs.positions.long()
        blocks = self._tables[inputs.slots, positions // block_tokens].long()
        cache_slots = blocks * block_tokens + positions % block_tokens
        plan = self._plan(inputs, shape)
        return self._decoder.forward(tokens, positions, cache_slots, plan, self._attention, self._cache)

    def _choose(self, hidden: Tensor, inputs: DeviceInputs, shape: Shape) -> Result:
        """The chosen tokens, which are also left where the next step finds them."""
        layout = shape.layout
        if layout.choices == 0:
            return Result(torch.empty(0, dtype=torch.int64, device=hidden.device), None)
        is_every_row = shape.num_decode_rows == layout.choices == layout.rows
        logits = self._decoder.logits(hidden if is_every_row else hidden[inputs.choice_rows])
        chosen = choose(logits, inputs, shape.mode, self._kernels.argmax)
        self._last_tokens.index_copy_(0, inputs.stores.long(), chosen.clamp(min=0))  # whoever has none goes on in vain
        return Result(chosen, logits if shape.keeps_logits else None)

    def _plan(self, inputs: DeviceInputs, shape: Shape) -> StepPlan:
        count = shape.num_decode_rows
        decode = prompts = None
        if count:
            decode = DecodeRows(self._tables[inputs.slots[:count]], inputs.positions[:count] + 1)
        if shape.spans:
            tables = self._tables[inputs.prompt_slots]
            prompts = Prompts(tables, inputs.first_rows, inputs.ends, list(shape.spans))
        return StepPlan(count, decode, prompts)


def _is_prompt(chunk: Chunk) -> bool:
    return chunk.length > 1
