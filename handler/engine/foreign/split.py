"""A causal language model cut in two, so that logits are made only of the rows that are sampled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from handler.engine.foreign.refusal import Unsuitable


class SplitModel:
    """The body gives hidden states, and the rest of the model, whatever it scales or caps, makes logits of them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._body = model.get_decoder()
        names = [name for name, module in model.named_modules() if module is self._body and name]
        if not names:
            raise Unsuitable("its head cannot be told from its body")
        model.set_submodule(names[0], _Given())
        self._head = model

    def hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """`tokens`, `positions` (T,) -> hidden states (T, hidden_size). `mask` (1, T) tells padding from tokens."""
        output = self._body(input_ids=tokens[None], position_ids=positions[None], attention_mask=mask, use_cache=False)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` (R, hidden_size) -> logits (R, vocab_size)."""
        logits: Tensor = self._head(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits


class _Given(nn.Module):
    """Stands for the body, and returns the hidden states that it is given as embeddings."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _GivenOutput:
        return _GivenOutput(last_hidden_state=inputs_embeds)


@dataclass
class _GivenOutput(MoeModelOutputWithPast):  # type: ignore[misc]  # transformers has no types
    """All that any head looks for in its body's output; what nobody asked for is None."""

    cross_attentions: None = None
