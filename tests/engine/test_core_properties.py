"""Whatever arrives, whatever is cancelled, with and without drafts and steps in flight: what must always hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handler.engine.block_tables import BlockTables
from handler.engine.blocks import BlockPool
from handler.engine.core import EngineCore
from handler.engine.drafting import Drafter
from handler.engine.events import FinishReason
from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import GrammarCompiler
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Scheduler
from handler.engine.sequence import Sequence
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer
from tests.engine.hash_device import VOCAB_SIZE, HashDevice, completion
from tests.tiny_models import byte_tokenizer

BLOCK, TILE = 4, 8
MAX_LEN = 64


@cache
def model() -> LoadedModel:
    with TemporaryDirectory() as directory:
        byte_tokenizer().save(f"{directory}/tokenizer.json")
        tokenizer = Tokenizer(Path(directory))
    names = ("name", "architecture", "device", "dtype", "quantization", "kv_cache_dtype")
    info: dict[str, Any] = dict.fromkeys(names, "none")
    return LoadedModel(
        info=ModelInfo(vocab_size=VOCAB_SIZE, max_model_len=MAX_LEN, kv_cache_tokens=0, **info),
        tokenizer=tokenizer,
        chat_template=None,
        defaults=GenerationDefaults(),
        grammars=GrammarCompiler(tokenizer, Path("never read"), (), VOCAB_SIZE),
    )


class Follower:
    """What a client has seen of a sequence, and what it is to see in the end."""

    def __init__(self, prompt: list[int], params: SamplingParams, last_step: int) -> None:
        self.expected = completion(prompt, params)
        self.seen: list[int] = []
        self.params = params
        self.last_step = last_step
        self.own_steps = most_steps(len(prompt), params.max_tokens)


def most_steps(num_prompt_tokens: int, max_tokens: int) -> int:
    """Steps that a sequence takes once it is the oldest: its tiles and tokens, and the filling of the pipeline."""
    return -(-(num_prompt_tokens + max_tokens) // TILE) + max_tokens + 3


class Serving(RuleBasedStateMachine):
    """The real core, scheduler, pool and output over a device that checks every block."""

    @initialize(
        num_blocks=st.integers(MAX_LEN // BLOCK, 40),
        max_batch_size=st.integers(1, 5),
        chunk=st.integers(TILE, 40),
        draft_tokens=st.sampled_from([0, 1, 3, 6]),
        most_urgent=st.integers(0, 2),  # 0: all priorities are equal
        max_drafting=st.integers(1, 5),
        runs_ahead=st.booleans(),
    )
    def start(
        self,
        num_blocks: int,
        max_batch_size: int,
        chunk: int,
        draft_tokens: int,
        most_urgent: int,
        max_drafting: int,
        runs_ahead: bool,
    ) -> None:
        self.most_urgent = most_urgent
        self.pool = BlockPool(1 + num_blocks)
        tables = BlockTables(self.pool, block_size=BLOCK, tile=TILE)
        drafter = None
        if draft_tokens:
            drafter = Drafter(tables, draft_tokens=draft_tokens, max_sequences=max_drafting)
        self.scheduler = Scheduler(
            tables,
            max_batch_size=max_batch_size,
            prefill_chunk_tokens=chunk,
            drafter=drafter,
        )
        self.device = HashDevice(BLOCK, runs_ahead=runs_ahead)
        self.core = EngineCore(runner=self.device, scheduler=self.scheduler, pool=self.pool, model=model())
        self.alive: dict[int, Follower] = {}  # in the order of their ranks
        self.num_added = 0
        self.num_steps = 0

    @rule(
        family=st.integers(0, 2),  # prompts of one family share a beginning
        shared=st.integers(0, 26),
        own=st.lists(st.integers(0, 3), min_size=1, max_size=16),
        max_tokens=st.integers(1, 22),
        needs_history=st.booleans(),
        stops=st.booleans(),
        urgency=st.integers(0, 2),
    )
    def add(
        self,
        family: int,
        shared: int,
        own: list[int],
        max_tokens: int,
        needs_history: bool,
        stops: bool,
        urgency: int,
    ) -> None:
        self.num_added += 1
        prompt = [(family + index * index) % VOCAB_SIZE for index in range(shared)] + own
        params = SamplingParams(
            max_tokens=max_tokens,
            seed=self.num_added,
            logprobs=0 if needs_history else None,
            stop_token_ids=(3, 7) if stops else (),
            priority=-min(urgency, self.most_urgent),
        )
        all_steps = sum(follower.own_steps for follower in self.alive.values()) + most_steps(len(prompt), max_tokens)
        for other in self.alive.values():
            if other.params.priority > params.priority:  # it may have to begin again behind the new one
                other.last_step = self.num_steps + all_steps
        self.alive[self.num_added] = Follower(prompt, params, self.num_steps + all_steps)
        self.alive = dict(sorted(self.alive.items(), key=lambda item: (item[1].params.priority, item[0])))
        self.core.add(self.num_added, prompt, params)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.alive)))
        follower = self.alive.pop(number)
        assert follower.seen == follower.expected[: len(follower.seen)]
        self.core.cancel(number)

    @precondition(lambda self: self.core.has_work)
    @rule()
    def step(self) -> None:
        self.num_steps += 1
        waiting = {one.id for one in self.scheduler.waiting}
        ran = {one.id for one in self.scheduler.running}
        events = self.core.step()
        self.check_ranks(waiting, ran)
        for number, event in events:
            follower = self.alive[number]
            assert event.token_ids
            follower.seen += event.token_ids
            if event.finish_reason is None:
                assert follower.seen == follower.expected[: len(follower.seen)]
                continue
            assert follower.seen == follower.expected
            stopped = follower.seen[-1] in follower.params.stop_token_ids
            assert event.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            del self.alive[number]
        for follower in self.alive.values():
            assert self.num_steps < follower.last_step, "it starves"

    def check_ranks(self, waiting: set[int], ran: set[int]) -> None:
        """Nobody was admitted past one that waits, and whoever was preempted came last of those that ran."""
        queue = list(self.scheduler.waiting)
        admitted = [one for one in self.scheduler.running if one.id in waiting]
        assert all(one.rank < other.rank for one in admitted for other in queue)
        preempted = [one for one in queue if one.id in ran]
        kept = [one for one in self.scheduler.running if one.id in ran]
        assert all(one.rank < other.rank for one in kept for other in preempted)

    @invariant()
    def is_sound(self) -> None:
        pool, running, waiting = self.pool, self.scheduler.running, list(self.scheduler.waiting)
        pool.check()
        assert len(pool._free) + pool.num_used + pool.num_cached == pool.num_blocks - 1
        for queue in (running, waiting):
            assert [one.id for one in queue] == [number for number in self.alive if number in {one.id for one in queue}]
        assert sorted(one.id for one in running + waiting) == sorted(self.alive), "nobody is lost"
        if self.most_urgent == 0:
            assert [one.id for one in running + waiting] == list(self.alive), "nobody overtakes"
        assert all(one.block_table == [] for one in waiting)
        tables = [one.block_table for one in running]
        assert pool.num_used == len({block for table in tables for block in table})
        for index, one in enumerate(running):
            assert len(set(one.block_table)) == len(one.block_table)
            for other in running[:index]:
                self.check_shared(one, other)
        if not self.device.runs_ahead:
            assert not self.device.in_flight
            assert all(one.num_pending_tokens == one.num_chunks_in_flight == 0 for one in running + waiting)

    def check_shared(self, one: Sequence, other: Sequence) -> None:
        """A block of two sequences holds the same tokens, and nobody will write to it any more."""
        for block in set(one.block_table) & set(other.block_table):
            index = one.block_table.index(block)
            end = (index + 1) * BLOCK
            assert other.block_table.index(block) == index
            assert other.tokens[:end] == one.tokens[:end]
            assert min(one.num_computed_tokens, other.num_computed_tokens) >= end

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        while self.core.has_work:
            self.step()
        self.is_sound()
        assert not self.alive
        assert self.pool.num_used == 0
        assert not self.device.in_flight
        stats = self.core.stats()
        assert 0 <= stats.spec_accepted_tokens <= stats.spec_drafted_tokens


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=200, stateful_step_count=50)
