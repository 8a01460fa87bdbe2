"""A check for schemathesis: what the schema allows is answered, or refused by a rule that the description states."""

from __future__ import annotations

import re

import schemathesis

# What the rules in handler/contract.py say when they are broken.
STATED = re.compile(
    "|".join(
        [
            r"Expected `int[^`]*`, got `float`$",
            r"exceed the model's context of|the model's context holds",
            r"outside the model's vocabulary|the vocabulary has no token|is not a token id$",
            r"stream_options needs stream",
            r"min_tokens \d+ is above",
            r"sequences, at most \d+ fit$",
            r"top_logprobs needs",
            r"max_tokens and max_completion_tokens differ",
            r"must hold one kind of item|the prompt has no tokens",
            r"has no chat template|chat template refuses|chat template has no variable",
            r"is a field of the request itself$|chat template does not show the last message",
            r"message needs content|arguments are a JSON object|arguments is not valid JSON",
            r"continue_final_message continues|continue_final_message and add_generation_prompt",
            r"waits for a result$|follows that answers|another call of the message has the id",
            r"waits for an output$|the call has no output|an earlier call has the id|not a JSON object",
            r"another tool has the name|an earlier tool is called|arguments are an object",
            r"there are no tools$|there is no tool|is not among tools$|needs tools$|cannot stand beside calls",
            r"cannot be combined with|says of no form|cannot be compiled",
            r"must have one of `messages`",
            r"makes no embeddings",
        ]
    )
)


@schemathesis.check
def refusal_is_stated(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or response.status_code != 400:
        return
    message = response.json()["error"]["message"]
    assert STATED.search(message), f"refused although the schema allows it: {message}"
