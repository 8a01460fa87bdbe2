"""Asks a server through LiteLLM's OpenAI provider, and prints what it sent and what it got. Needs LiteLLM alone.

LiteLLM wants an older openai than the suite does, so it has an interpreter of its own: `make litellm`.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks GitHub for prices when it is imported

import httpx
import litellm
import openai

litellm.telemetry = False

PARIS = [{"role": "user", "content": "What is the capital of France?"}]
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


def main(base_url: str, model: str) -> None:
    requests: list[dict] = []

    def record(request: httpx.Request) -> None:
        requests.append({"path": request.url.path, "body": json.loads(request.content)})

    http_client = httpx.Client(event_hooks={"request": [record]})
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http_client) as client:
        chat = {"model": f"openai/{model}", "messages": PARIS, "client": client, "api_key": "none"}
        whole = litellm.completion(**chat, temperature=0)
        stream = litellm.completion(**chat, temperature=0, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        options = litellm.completion(
            **chat, temperature=0.5, max_tokens=4, seed=1, stop=["\n"], n=2, top_p=0.9, logprobs=True, top_logprobs=2
        )
        text = litellm.text_completion(
            model=f"text-completion-openai/{model}", prompt="1, 2, 3, 4, 5,", max_tokens=8, temperature=0, client=client
        )
        tools = {
            "messages": [{"role": "user", "content": "What is 2 plus 3?"}],
            "tools": [{"type": "function", "function": ADD}],
            "tool_choice": {"type": "function", "function": {"name": "add"}},
            "temperature": 0,
            "max_tokens": 64,
        }
        call = litellm.completion(**chat | tools).choices[0].message.tool_calls[0].function
        pieces = list(litellm.completion(**chat | tools, stream=True))
        rebuilt = litellm.stream_chunk_builder(pieces).choices[0].message.tool_calls[0].function
        formatted = litellm.completion(**chat, temperature=0, max_tokens=64, response_format={"type": "json_object"})
        try:
            litellm.completion(**chat, temperature=3)
        except litellm.BadRequestError as error:
            refusal = str(error)
    print(
        json.dumps(
            {
                "requests": requests,
                "whole": whole.choices[0].message.content,
                "usage": whole.usage.completion_tokens,
                "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
                "stream_usage": next(chunk.usage.completion_tokens for chunk in chunks if hasattr(chunk, "usage")),
                "choices": len(options.choices),
                "text": text.choices[0].text,
                "call": [call.name, json.loads(call.arguments)],
                "streamed_call": [rebuilt.name, json.loads(rebuilt.arguments)],
                "json": formatted.choices[0].message.content,
                "refusal": refusal,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
