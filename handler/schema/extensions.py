"""Fields that clients know from vLLM and that have no use here, on chat and text completions alike."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from handler.schema.sampling import CompletionFields
from handler.schema.unsupported import NEVER_TRUE

NoBeamSearch = Annotated[None, Meta(description="Tokens are sampled one after the other; there is no beam search.")]
NoTruncation = Annotated[None, Meta(description="A prompt is never cut; one that does not fit is refused.")]
NoAllowList = Annotated[None, Meta(description="Tokens are chosen by logit_bias and bad_words, or by a grammar.")]
NoPromptScores = Annotated[None, Meta(description="/v1/completions scores a prompt, with echo and logprobs.")]
NoCachePartition = Annotated[None, Meta(description="There is one prefix cache for all requests.")]
NoTransfer = Annotated[None, Meta(description="The KV cache of a request stays on its device.")]
NoCode = Annotated[None, Meta(description="Requests bring no code and no options of another server.")]
NoRequestId = Annotated[None, Meta(description="A request's own id goes in the header x-request-id.")]
NoSpacing = Annotated[None, Meta(description="Text is what the tokenizer's decoder makes of the tokens.")]


class ExtensionFields(CompletionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each is refused with the reason."""

    use_beam_search: (
        Annotated[bool, Meta(description="Tokens are sampled one after the other.", extra_json_schema=NEVER_TRUE)]
        | None
    ) = None
    return_token_ids: (
        Annotated[bool, Meta(description="Tokens are reported as text.", extra_json_schema=NEVER_TRUE)] | None
    ) = None
    return_tokens_as_token_ids: (
        Annotated[bool, Meta(description="Tokens are reported as text.", extra_json_schema=NEVER_TRUE)] | None
    ) = None
    length_penalty: NoBeamSearch = None
    early_stopping: NoBeamSearch = None
    truncate_prompt_tokens: NoTruncation = None
    allowed_token_ids: NoAllowList = None
    prompt_logprobs: NoPromptScores = None
    cache_salt: NoCachePartition = None
    kv_transfer_params: NoTransfer = None
    logits_processors: NoCode = None
    vllm_xargs: NoCode = None
    request_id: NoRequestId = None
    spaces_between_special_tokens: NoSpacing = None
