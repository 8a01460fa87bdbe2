"""A device that works in order and behind the host's back, made of the runner that computes in place."""

from __future__ import annotations

from collections import deque

from handler.engine.core import EngineCore
from handler.engine.runner import TorchRunner
from handler.engine.sequence import Sequence
from handler.engine.step import Batch, PendingStep, SampledToken


class DeferredStep:
    """A step whose tokens exist, but are told only to whoever waits for it."""

    def __init__(self, runner: DeferredRunner, step: PendingStep) -> None:
        self._runner = runner
        self.sampled = dict(step.wait())
        self.prompt_logprobs = step.prompt_logprobs

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        assert self._runner.in_flight.popleft() is self, "steps end in the order of their launch, once each"
        return list(self.sampled.items())


class DeferredRunner:
    """Resolves chunks that are ahead from the step launched before, as a device does."""

    runs_ahead = True

    def __init__(self, runner: TorchRunner) -> None:
        self._runner = runner
        self.in_flight: deque[DeferredStep] = deque()
        self.num_steps = 0
        self.num_steps_ahead = 0

    def launch(self, batch: Batch) -> DeferredStep:
        assert batch
        assert len(self.in_flight) <= 1, "one step stays in flight, not more"
        ahead = [chunk for chunk in batch if chunk.is_ahead]
        for chunk in ahead:
            assert not chunk.sequence.params.needs_history
            assert chunk.length == 1
            assert not chunk.draft
            [token] = self.in_flight[0].sampled[chunk.sequence]
            chunk.sequence.tokens.append(token.token_id)
        step = DeferredStep(self, self._runner.launch(batch))
        for chunk in ahead:
            chunk.sequence.tokens.pop()
        self.in_flight.append(step)
        self.num_steps += 1
        self.num_steps_ahead += len(self.in_flight) > 1
        return step

    def clear(self, blocks: list[int]) -> None:
        self._runner.clear(blocks)

    def idle(self) -> None:
        self._runner.idle()


def defer(core: EngineCore) -> DeferredRunner:
    """Put a deferred runner into a core."""
    assert isinstance(core._runner, TorchRunner)
    core._runner = runner = DeferredRunner(core._runner)
    return runner
