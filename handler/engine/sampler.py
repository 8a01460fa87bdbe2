"""Chooses the next token of each row from its logits.

Keeps nothing between steps but what the penalties count, and the lists of a request as tensors. A row's choice depends
on its own logits, parameters and random number alone: sampling inverts the cumulative distribution at one uniform
number that the sequence's own generator draws, so neither batch nor device matters.
"""

from __future__ import annotations

import itertools
import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from handler.engine.bad_words import BadWords
from handler.engine.events import TokenLogprob
from handler.engine.follower import Follower
from handler.engine.logprobs import score
from handler.engine.masks import Masks
from handler.engine.penalties import Penalties
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk, SampledToken
from handler.errors import EngineError, NothingLeftError

CANDIDATES = 256
"""A top-p cut is looked for among that many likeliest tokens first; a flatter row is sorted whole."""

_NOTHING_LEFT = "what the request rules out leaves no token to go on with"
_STUCK = "The completion cannot go on: "

_TINY = torch.finfo(torch.float32).tiny


class Sampler:
    """Samples for all rows of a step. `end_token_ids` are the model's own end-of-sequence tokens."""

    def __init__(self, vocab_size: int, end_token_ids: tuple[int, ...], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._end_token_ids = end_token_ids
        self._device = device
        self._penalties = Penalties(device)
        self._bad_words = BadWords(device)
        self._masks = Masks(vocab_size, device)
        self._weights = torch.empty(0, vocab_size, device=device)
        # Tensors of what a request lists, made once: a list may name the whole vocabulary.
        self._biases: WeakKeyDictionary[Sequence, tuple[Tensor, Tensor]] = WeakKeyDictionary()
        self._bans: WeakKeyDictionary[Sequence, Tensor] = WeakKeyDictionary()

    def sample_chunks(self, logits: Tensor, chunks: list[Chunk]) -> list[tuple[Sequence, list[SampledToken]]]:
        """The tokens of chunks that sample, each with `1 + len(draft)` rows of `logits` (R, vocab_size), one by one.

        The row behind a draft token is sampled only if that token was sampled in the row before. So a draft changes
        no token and draws no random number more, whatever the parameters.
        """
        first_rows = list(itertools.accumulate((1 + len(chunk.draft) for chunk in chunks), initial=0))
        sampled: list[list[SampledToken]] = [[] for _ in chunks]
        going = list(range(len(chunks)))
        while going:
            rows = [first_rows[index] + len(sampled[index]) for index in going]
            tokens = self.sample(
                logits if len(rows) == len(logits) else logits[rows],
                [chunks[index].sequence for index in going],
                [[token.token_id for token in sampled[index]] for index in going],
            )
            for index, token in zip(going, tokens, strict=True):
                sampled[index].append(token)
            going = [index for index in going if _goes_on(chunks[index].draft, sampled[index])]
        return [(chunk.sequence, tokens) for chunk, tokens in zip(chunks, sampled, strict=True)]

    def sample(
        self, logits: Tensor, sequences: list[Sequence], accepted: list[list[int]] | None = None
    ) -> list[SampledToken]:
        """One token for each row of `logits` (R, vocab_size) float32, which this may overwrite.

        `accepted` are tokens that each sequence got in this step already and does not hold yet. A row from which
        nothing can be chosen yields an error, and changes nothing for the others.
        """
        if accepted is None:
            accepted = [[] for _ in sequences]
        raw = logits.clone() if any(s.params.logprobs is not None for s in sequences) else logits
        for row, sequence in enumerate(sequences):
            self._adjust(logits[row], sequence, accepted[row])
        followers = {row: s.follower for row, s in enumerate(sequences) if s.follower is not None}
        for row, follower in followers.items():
            follower.catch_up(sequences[row].tokens, accepted[row])
        likeliest = self._constrain(logits, sequences, followers)
        errors = _errors(logits, likeliest, followers)
        tokens = self._choose(logits, likeliest, sequences)
        logprobs = self._logprobs(raw, sequences, tokens)
        return [SampledToken(*result) for result in zip(tokens, logprobs, errors, strict=True)]

    def _adjust(self, row: Tensor, sequence: Sequence, accepted: list[int]) -> None:
        """Apply penalties, biases and bans to one row of logits (vocab_size,), in OpenAI's and vLLM's order."""
        params = sequence.params
        self._penalties.apply(row, sequence, accepted)
        if params.logit_bias:
            if sequence not in self._biases:
                values = torch.tensor(list(params.logit_bias.values()), device=self._device)
                self._biases[sequence] = self._indices(list(params.logit_bias)), values
            tokens, biases = self._biases[sequence]
            row[tokens] += biases
        if params.bad_words:
            self._bad_words.apply(row, sequence, accepted)
        if sequence.num_output_tokens + len(accepted) < params.min_tokens:
            if sequence not in self._bans:
                self._bans[sequence] = self._indices(list({*self._end_token_ids, *params.stop_token_ids}))
            row[self._bans[sequence]] = float("-inf")

    def _constrain(self, logits: Tensor, sequences: list[Sequence], followers: dict[int, Follower]) -> Tensor:
        """Take from each row what its follower does not allow, and return the likeliest tokens (R,) of what is left.

        A greedy row whose likeliest token is allowed is left as it is: asking for one token costs a tenth of a mask.
        """
        drawn = {row: follower for row, follower in followers.items() if sequences[row].params.temperature > 0}
        if drawn:
            self._masks.apply(logits, drawn)
        likeliest = _argmax(logits)
        greedy = {row: follower for row, follower in followers.items() if row not in drawn}
        if not greedy:
            return likeliest
        tokens = likeliest.tolist()
        wrong = {row: each for row, each in greedy.items() if not each.allows(tokens[row])}
        if wrong:
            self._masks.apply(logits, wrong)
            # Copying a row costs as much as looking for its largest again.
            if 2 * len(wrong) >= len(logits):
                return _argmax(logits)
            rows = list(wrong)
            likeliest[rows] = _argmax(logits[rows])
        return likeliest

    def _choose(self, logits: Tensor, likeliest: Tensor, sequences: list[Sequence]) -> list[int]:
        tokens = likeliest
        plain = [row for row, s in enumerate(sequences) if s.params.temperature > 0 and not _cuts(s.params)]
        cut = [row for row, s in enumerate(sequences) if s.params.temperature > 0 and _cuts(s.params)]
        if plain:
            probabilities = self._probabilities(logits, sequences, plain)
            tokens[plain] = self._invert(probabilities, [sequences[row] for row in plain])
        for row in cut:
            tokens[row] = self._sample_cut(self._probabilities(logits, sequences, [row])[0], sequences[row])
        return tokens.tolist()

    def _probabilities(self, logits: Tensor, sequences: list[Sequence], rows: list[int]) -> Tensor:
        """Weights (len(rows), vocab_size): probabilities at each row's temperature, zero below its min_p.

        Good until the next call, and overwrites `logits` where all its rows are meant: most of the time went to the
        pages of fresh memory.
        """
        params = [sequences[row].params for row in rows]
        # Below the smallest float32 nothing changes any more: all weight is on the likeliest token already.
        temperatures = torch.tensor([[max(p.temperature, _TINY)] for p in params], device=self._device)
        chosen = logits if len(rows) == len(logits) else logits[rows]
        if len(self._weights) < len(rows):
            self._weights = torch.empty_like(chosen)
        # Shifted first: a tiny temperature must not turn large logits into infinities.
        chosen.sub_(chosen.amax(dim=-1, keepdim=True)).div_(temperatures)
        probabilities = torch.softmax(chosen, dim=-1, out=self._weights[: len(rows)])
        if any(p.min_p > 0 for p in params):
            floor = torch.tensor([[p.min_p] for p in params], device=self._device)
            kept = probabilities >= floor * probabilities.amax(dim=-1, keepdim=True)
            # Not normalised here: the rounding would depend on whether another row has a min_p.
            probabilities = torch.where(kept, probabilities, 0.0)
        return probabilities

    def _sample_cut(self, probabilities: Tensor, sequence: Sequence) -> Tensor:
        """A token of one row (vocab_size,) after top_k and top_p, as a tensor ()."""
        params = sequence.params
        if params.min_p > 0:
            probabilities = probabilities / probabilities.sum()
        if params.top_k:
            likely, indices = probabilities.topk(min(params.top_k, self._vocab_size))
            likely = likely / likely.sum()
        else:
            likely, indices = probabilities.topk(min(CANDIDATES, self._vocab_size))
            if float(likely.sum()) < params.top_p:
                likely, indices = probabilities.sort(descending=True, stable=True)
        if params.top_p < 1.0:
            before = likely.cumsum(dim=0) - likely
            likely = torch.where(before < params.top_p, likely, 0.0)
        choice = self._invert(likely.unsqueeze(0), [sequence])
        return indices[choice[0]]

    def _invert(self, weights: Tensor, sequences: list[Sequence]) -> Tensor:
        """Indices (R,) where each row's cumulative `weights` (R, C) pass the sequence's next uniform number."""
        uniforms = torch.tensor([[s.rng.random()] for s in sequences], dtype=torch.float64, device=self._device)
        shares = 1.0 - uniforms  # (0, 1]: a weight of zero is never chosen, not even the first
        if weights.shape[1] <= CANDIDATES:
            return _find(weights.double().cumsum(dim=-1), shares).squeeze(1)
        # The piece first: to add up all weights one by one takes longer than all the rest.
        pieces = _pieces(weights)
        ends = pieces.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # (R, P)
        piece = _find(ends, shares)
        begin = torch.where(piece > 0, ends.gather(1, (piece - 1).clamp_(min=0)), 0.0)
        # Again a share, in (0, 1]: the sum of a piece depends on the order in which its weights are added up.
        shares = (shares * ends[:, -1:] - begin) / (ends.gather(1, piece) - begin)
        inside = pieces.take_along_dim(piece.unsqueeze(-1), dim=1).squeeze(1)
        return (piece * inside.shape[1] + _find(inside.double().cumsum(dim=-1), shares)).squeeze(1)

    def _logprobs(self, logits: Tensor, sequences: list[Sequence], tokens: list[int]) -> list[TokenLogprob | None]:
        """Log probabilities of the unadjusted model, for the sequences that ask for them."""
        result: list[TokenLogprob | None] = [None] * len(sequences)
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if sequence.params.logprobs is not None:
                scores = score(logits[row : row + 1], self._indices([token]), sequence.params.logprobs)
                [result[row]] = scores.report()
        return result

    def _indices(self, tokens: list[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self._device)


def _argmax(logits: Tensor) -> Tensor:
    """Indices (R,) of the largest of each row (R, C), the first where several are equal.

    By the largest of each piece first: on the CPU torch's maximum is seven times faster than its argmax.
    """
    pieces = _pieces(logits)
    best = pieces.amax(dim=-1).argmax(dim=-1, keepdim=True)
    within = pieces.take_along_dim(best.unsqueeze(-1), dim=1).squeeze(1).argmax(dim=-1)
    return best.squeeze(1) * pieces.shape[-1] + within


def _find(cumulative: Tensor, shares: Tensor) -> Tensor:
    """Indices (R, 1) where each row of `cumulative` (R, C) reaches a share (R, 1) of its end."""
    return torch.searchsorted(cumulative, shares * cumulative[:, -1:]).clamp_(max=cumulative.shape[1] - 1)


def _pieces(rows: Tensor) -> Tensor:
    """Rows (R, C), each cut into P equal pieces: (R, P, C / P)."""
    num_rows, num_columns = rows.shape
    size = next(size for size in (256, 64, 16, 1) if num_columns % size == 0)
    return rows.reshape(num_rows, -1, size)


def not_finite() -> EngineError:
    """What a row says from which nothing can be chosen, because the model made no numbers of it."""
    return EngineError(f"{_STUCK}the model's logits are not finite")


def _errors(logits: Tensor, likeliest: Tensor, followers: dict[int, Follower]) -> list[EngineError | None]:
    """Why nothing can be chosen from a row, None where something can. A row with a NaN has it for its largest."""
    errors: list[EngineError | None] = [None] * len(logits)
    for row, value in enumerate(logits.gather(1, likeliest.unsqueeze(1)).squeeze(1).tolist()):
        if not math.isfinite(value):
            errors[row] = NothingLeftError(_STUCK + _NOTHING_LEFT) if value == -math.inf else not_finite()
    for row, follower in followers.items():
        if follower.error:
            errors[row] = NothingLeftError(f"{_STUCK}the grammar cannot be followed any further: {follower.error}")
    return errors


def _cuts(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0


def _goes_on(draft: tuple[int, ...], sampled: list[SampledToken]) -> bool:
    """Whether the next row was computed behind the token that was sampled last."""
    return len(sampled) <= len(draft) and sampled[-1].error is None and sampled[-1].token_id == draft[len(sampled) - 1]
