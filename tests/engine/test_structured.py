"""Sequences that follow a grammar: what they end as, in any company, and who fails when one cannot go on."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
import torch

from handler.engine.core import EngineCore
from handler.engine.events import FinishReason
from handler.engine.grammar import Grammar, GrammarKind, GrammarSpec
from handler.engine.sampling_params import SamplingParams
from tests.conftest import LoadTiny
from tests.engine.deferred import defer
from tests.engine.random_schemas import random_schema
from tests.engine.running import Completion, complete, run, submit
from tests.engine.test_seeds import complete_in_company

NUM_SCHEMAS = 200
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def compile_json(core: EngineCore, schema: Any) -> Grammar:
    return compile_text(core, "json_schema", json.dumps(schema))


def compile_text(core: EngineCore, kind: GrammarKind, text: str) -> Grammar:
    return core.model.grammars.compile(GrammarSpec(kind, text), "field")


def following(grammar: Grammar, **changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 300, "seed": 5, "grammar": grammar} | changes))


def test_every_output_of_many_random_schemas_validates(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama", quantization="int8")
    schemas = [random_schema(seed) for seed in range(NUM_SCHEMAS)]
    ids = [
        submit(core, [1, 2, seed % 256], following(compile_json(core, schema), seed=seed, max_tokens=600))
        for seed, schema in enumerate(schemas)
    ]
    completions = run(core)
    finished = 0
    for sequence_id, schema in zip(ids, schemas, strict=True):
        completion = completions[sequence_id]
        if completion.finish_reason is FinishReason.LENGTH:
            continue
        assert completion.finish_reason is FinishReason.STOP, (schema, completion.events[-1].error)
        value = json.loads(completion.text)
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
        finished += 1
    assert finished >= 0.9 * NUM_SCHEMAS
    assert len({completions[sequence_id].text for sequence_id in ids}) > NUM_SCHEMAS / 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_embedded_model_says_what_it_is_asked_for(temperature: float, embedded_core: EngineCore) -> None:
    prompt = embedded_core.model.tokenizer.encode("A person as JSON:", add_special_tokens=False)
    params = following(compile_json(embedded_core, PERSON), temperature=temperature, max_tokens=100)
    [completion] = complete(embedded_core, [prompt], params)
    assert completion.finish_reason is FinishReason.STOP
    jsonschema.validate(json.loads(completion.text), PERSON)
    assert completion.text == json.dumps(json.loads(completion.text), ensure_ascii=False)
    assert completion.tokens[-1] in embedded_core.model.defaults.end_token_ids


STYLES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.3, "top_k": 40, "presence_penalty": 0.5},
    {"top_p": 0.9, "logprobs": 2},
]


@pytest.mark.parametrize("style", STYLES)
def test_company_changes_no_token(style: dict[str, Any], load_tiny: LoadTiny) -> None:
    prompt = [random.Random(5).randrange(256) for _ in range(150)]
    for quantization in ("none", "int8"):
        core = load_tiny("qwen3", quantization=quantization, max_batch_size=8)
        params = following(compile_json(core, PERSON), **style)
        [alone] = complete(core, [prompt], params)
        company = complete_in_company(core, prompt, params, seed=2)
        assert company.tokens == alone.tokens
        assert company.logprobs == alone.logprobs
        jsonschema.validate(json.loads(alone.text), PERSON)


def test_preemption_changes_no_token(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama", max_model_len=256)
    params = following(compile_json(core, PERSON | {"minProperties": 2}), max_tokens=80)
    prompts = [[random.Random(seed).randrange(256) for _ in range(50)] for seed in range(4)]
    expected = [complete(core, [prompt], params)[0].tokens for prompt in prompts]
    while core._pool.num_available > 9:
        core._pool.allocate()
    assert [completion.tokens for completion in complete(core, prompts, params)] == expected
    assert core.stats().num_preemptions > 0


def test_drafts_of_what_is_forced_change_no_token(load_tiny: LoadTiny) -> None:
    texts, steps = {}, {}
    for tokens in (0, 5):
        core = load_tiny("llama", speculation_tokens=tokens)
        params = following(compile_json(core, PERSON))
        [completion] = complete(core, [[1, 2, 3]], params)
        texts[tokens], steps[tokens] = completion.text, len(completion.events)
        if tokens:
            assert (
                core.stats().spec_accepted_tokens
                >= len(
                    '{"name": ',
                )
                - 2
            )
    assert texts[0] == texts[5]
    assert steps[5] < steps[0] - 8


def test_a_device_that_runs_ahead_waits_for_them(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama")
    params = following(compile_json(core, PERSON))
    [expected] = complete(core, [[1, 2, 3]], params)
    deferred = defer(core)
    ids = [submit(core, [1, 2, 3], params), submit(core, [4], SamplingParams(max_tokens=300, ignore_eos=True))]
    completions = run(core)
    assert completions[ids[0]].tokens == expected.tokens
    assert deferred.num_steps_ahead > 0


def test_streamed_pieces_are_the_whole(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama")
    [completion] = complete(core, [[9]], following(compile_text(core, "regex", "[äöü🐈]{5,9}")))
    assert completion.finish_reason is FinishReason.STOP
    assert 5 <= len(completion.text) <= 9
    assert set(completion.text) <= set("äöü🐈")
    assert "".join(event.text for event in completion.events) == completion.text


def other(core: EngineCore) -> tuple[SamplingParams, Completion]:
    params = SamplingParams(max_tokens=30, seed=11, ignore_eos=True)
    return params, complete(core, [[8, 9]], params)[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_who_has_no_token_left_fails_alone(temperature: float, load_tiny: LoadTiny) -> None:
    core = load_tiny("llama")
    plain, expected = other(core)
    # Complete after three letters, but not allowed to end before the fifth.
    stuck = following(compile_text(core, "regex", "abc"), min_tokens=5, temperature=temperature)
    ids = [submit(core, [8, 9], plain), submit(core, [1], stuck)]
    completions = run(core)
    last = completions[ids[1]].events[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert "leaves no token" in str(last.error)
    assert completions[ids[1]].text == "abc"
    assert completions[ids[0]].tokens == expected.tokens


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_who_has_no_numbers_fails_alone_and_leaves_nothing_behind(
    quantization: str, temperature: float, load_tiny: LoadTiny
) -> None:
    core = load_tiny("llama", quantization=quantization)
    plain, expected = other(core)
    decoder = core._runner._decoder  # type: ignore[attr-defined]
    embedding = decoder._quantised["embedding"] if hasattr(decoder, "_quantised") else decoder._embedding
    with torch.inference_mode():
        embedding[77] = float("nan")
    broken = (
        [8, 9] + [1] * 18 + [77] + [1] * 280
    )  # in two steps, so that the first one's blocks can be found for a while
    ids = [
        submit(core, broken, SamplingParams(max_tokens=9, temperature=temperature)),
        submit(core, [8, 9], plain),
    ]
    completions = run(core)
    last = completions[ids[0]].events[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert "not finite" in str(last.error)
    assert completions[ids[0]].tokens == []
    assert completions[ids[1]].tokens == expected.tokens
    assert core._pool.num_cached == 0, "what was computed for it can be found"
    # They get the blocks that were given back last, with what lies behind their own tokens there.
    again = complete(core, [[8, 9]] * 8, plain)
    assert [completion.tokens for completion in again] == [expected.tokens] * 8


def test_who_has_no_numbers_after_it_was_preempted_fails_alone(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama")
    plain, expected = other(core)
    defer(core)
    with torch.inference_mode():
        core._runner._runner._decoder._embedding[77] = float("nan")  # type: ignore[attr-defined]
    ids = [submit(core, [8, 9], plain), submit(core, [1, 77], SamplingParams(max_tokens=9))]
    core.step()
    broken = core._scheduler.running[-1]
    assert broken.num_chunks_in_flight
    core._scheduler._preempt(broken)
    completions = run(core)
    assert completions[ids[1]].finish_reason is FinishReason.ERROR
    assert "not finite" in str(completions[ids[1]].events[-1].error)
    assert completions[ids[0]].tokens == expected.tokens
