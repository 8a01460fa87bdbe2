"""Greedy tokens equal transformers' token for token in float32, however the work was cut into steps."""

from __future__ import annotations

import random

import pytest

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.snapshot import Snapshot
from tests.conftest import LoadTiny
from tests.engine.conftest import LoadReference
from tests.engine.running import complete, complete_alone, generate, greedy, likeliest_next
from tests.tiny_models import VARIANTS, make_model

LENGTHS = (1, 5, 17, 64, 130, 300)
NUM_TOKENS = 12
EMBEDDED_TOKENS = 24

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about autumn rain.",
    "Explain gravity to a child in two sentences.",
    "List three prime numbers above 50.",
    "¿Cómo se dice 'good morning' en español?",
    "Translate 'I am hungry' into German, please.",
    "def fibonacci(n):\n    ",
    "What is 17 * 23?",
    "Who wrote 'Pride and Prejudice'?",
    'Give me a JSON object with the keys "name" and "age".',
    "Name a fruit that is 🍌-shaped.",
    "Why is the sky blue?",
    "日本の首都はどこですか。",
    "Summarise: the cat sat on the mat, and then it left.",
    "Tell me a joke about compilers.",
    "How many days are there in a leap year?",
    "A",
]
LONG_TEXT = (
    "The harbour town of Esk had three lighthouses, of which only one was ever lit. The keeper, a retired "
    "clockmaker named Orla, wound its great lamp every evening at {time}, and wrote the weather into a green "
    "ledger: wind from the {wind}, sea {sea}, visibility good. On the night of the storm she noticed that the "
    "ledger already held an entry for the following day, in her own hand, describing a ship that had not yet been "
    "built. She closed the book, set the kettle on the stove, and waited for the bell. Nobody in the town slept "
    "well that week; the baker burned his bread, the schoolmaster taught the same lesson twice, and the dogs "
    "refused to walk along the pier after sunset. "
)


def chat_prompts(core: EngineCore) -> list[list[int]]:
    template = core.model.chat_template
    assert template is not None
    long_questions = [
        LONG_TEXT.format(time=time, wind=wind, sea=sea) * 2 + "What happened on the night of the storm?"
        for time, wind, sea in [("six", "north", "calm"), ("nine", "west", "rough"), ("dusk", "south", "choppy")]
    ]
    prompts = [
        core.model.tokenizer.encode(template.render([{"role": "user", "content": text}]), add_special_tokens=False)
        for text in QUESTIONS + long_questions
    ]
    assert len(prompts) == 20
    assert sum(len(prompt) > 256 for prompt in prompts) == 3
    return prompts


def random_prompts() -> list[list[int]]:
    numbers = random.Random(7)
    return [[numbers.randrange(256) for _ in range(length)] for length in LENGTHS]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tiny_model_says_what_transformers_says(variant: str, load_tiny: LoadTiny) -> None:
    model = make_model(variant)
    prompts = random_prompts()
    expected = [generate(model, prompt, NUM_TOKENS) for prompt in prompts]
    for chunk_tokens in (128, 1024):
        core = load_tiny(variant, prefill_chunk_tokens=chunk_tokens, max_model_len=352)
        batched = complete(core, prompts, greedy(NUM_TOKENS))
        assert [completion.tokens for completion in batched] == expected
        assert [completion.cached_tokens for completion in batched] == [0] * len(prompts)

        core = load_tiny(variant, prefill_chunk_tokens=chunk_tokens, max_model_len=352)
        alone = complete_alone(core, prompts, greedy(NUM_TOKENS))
        assert [completion.tokens for completion in alone] == expected
        assert [completion.cached_tokens for completion in alone] == [0] * len(prompts)


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen2-window", "qwen3"])
def test_preemption_changes_no_token(variant: str, load_tiny: LoadTiny) -> None:
    model = make_model(variant)
    numbers = random.Random(8)
    prompts = [[numbers.randrange(256) for _ in range(length)] for length in (61, 125, 30, 92)]
    expected = [generate(model, prompt, 40) for prompt in prompts]
    core = load_tiny(variant, max_model_len=352)
    while core._pool.num_available > 12:  # all need 15 blocks in the end
        core._pool.allocate()
    completions = complete(core, prompts, greedy(40))
    assert core.stats().num_preemptions > 0
    assert [completion.tokens for completion in completions] == expected


@pytest.mark.parametrize("chunk_tokens", [128, 1024])
def test_a_prefix_hit_changes_no_token(chunk_tokens: int, load_tiny: LoadTiny) -> None:
    model = make_model("qwen3")
    numbers = random.Random(9)
    shared, first, second = ([numbers.randrange(256) for _ in range(length)] for length in (256, 70, 30))
    core = load_tiny("qwen3", prefill_chunk_tokens=chunk_tokens, max_model_len=512)
    for prompt, cached_tokens in [
        (shared + first, 0),
        (shared + first, 256),
        (shared + second, 256),
        (shared, 128),  # the last token is computed always, and hits come in whole tiles
        (shared[:200] + first, 128),
        (first + shared, 0),
    ]:
        [completion] = complete(core, [prompt], greedy(NUM_TOKENS))
        assert completion.tokens == generate(model, prompt, NUM_TOKENS)
        assert completion.cached_tokens == cached_tokens
    stats = core.stats()
    assert stats.prefix_hit_tokens == 256 + 256 + 128 + 128
    assert stats.prefix_query_tokens == 326 + 326 + 286 + 256 + 270 + 326


def test_an_answer_is_found_again_when_it_comes_back_as_a_prompt(load_tiny: LoadTiny) -> None:
    model = make_model("llama")
    core = load_tiny("llama", max_model_len=512)
    prompt = list(range(100))
    [first] = complete(core, [prompt], greedy(40))
    [second] = complete(core, [prompt + first.tokens], greedy(NUM_TOKENS))
    assert second.cached_tokens == 128
    assert second.tokens == generate(model, prompt + first.tokens, NUM_TOKENS)


def test_the_embedded_model_says_what_transformers_says(
    embedded_snapshot: Snapshot, embedded_core: EngineCore, load_reference: LoadReference
) -> None:
    model = load_reference(embedded_snapshot)
    prompts = chat_prompts(embedded_core)
    params = greedy(EMBEDDED_TOKENS)
    whole = load_core(
        embedded_snapshot, EngineOptions(device="cpu", dtype="float32", prefill_chunk_tokens=1024), BootTimeline()
    )
    completions = complete(embedded_core, prompts, params)  # 16 at a time, chunks of 256
    tokens = [completion.tokens for completion in completions]
    assert likeliest_next(model, prompts[:17], tokens[:17]) == tokens[:17]
    assert likeliest_next(model, prompts[17:], tokens[17:]) == tokens[17:]
    assert [completion.tokens for completion in complete_alone(whole, prompts, params)] == tokens
    again = complete(embedded_core, prompts[17:], params)
    assert [completion.tokens for completion in again] == tokens[17:]
    assert all(completion.cached_tokens >= 256 for completion in again)
