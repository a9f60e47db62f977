from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from recipe.medical_selfplay.cpu.decoder import ContinuousBatch, Request

VOCABULARY = 24
EOS = 1
PAD = 0


@pytest.fixture(scope="module")
def model() -> Iterator[Qwen3ForCausalLM]:
    """A random model whose greedy answers differ in length: some end early, some never."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slowed down by every further thread
    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        initializer_range=0.2,
    )
    yield Qwen3ForCausalLM(config).eval()
    torch.set_num_threads(threads)


@pytest.fixture
def batch(model: Qwen3ForCausalLM) -> ContinuousBatch:
    return ContinuousBatch(model, [EOS], PAD)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, VOCABULARY) for _ in range(rng.randint(1, 12))] for _ in range(count)]


def alone(model: Qwen3ForCausalLM, prompt: list[int], max_tokens: int) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return output[0, len(prompt) :].tolist()


def finish(batch: ContinuousBatch) -> None:
    while len(batch):
        batch.step()


def sampled(batch: ContinuousBatch, *requests: Request) -> list[list[int]]:
    batch.add(requests)
    finish(batch)
    return [request.token_ids for request in requests]


def logits_after(model: Qwen3ForCausalLM, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1]


def test_the_model_of_these_tests_answers_in_different_lengths(model: Qwen3ForCausalLM) -> None:
    lengths = {len(alone(model, prompt, 24)) for prompt in prompts(12)}
    assert 24 in lengths
    assert len(lengths) > 2


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=6))
def test_greedy_decoding_is_generate_whatever_joins_or_leaves(
    model: Qwen3ForCausalLM, arrivals: list[tuple[int, int]]
) -> None:
    batch = ContinuousBatch(model, [EOS], PAD)
    waiting = iter(prompts(20))
    requests: list[Request] = []
    complete: list[Request] = []
    for count, steps in arrivals:
        new = [
            Request(next(waiting), max_tokens=1 + (7 * len(requests) + i) % 24, temperature=0)
            for i in range(count)
        ]
        requests += new
        complete += batch.add(new)
        for _ in range(steps):
            complete += batch.step()
    while len(batch):
        complete += batch.step()
    assert Counter(map(id, complete)) == Counter(map(id, requests))
    for request in requests:
        assert request.token_ids == alone(model, request.prompt_ids, request.max_tokens)


def test_log_probs_are_those_of_a_full_forward_pass(
    model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    requests = [
        Request(prompt, max_tokens=12, temperature=0.7, seed=i)
        for i, prompt in enumerate(prompts(6))
    ]
    batch.add(requests[:4])
    batch.step()
    batch.add(requests[4:])
    finish(batch)
    for request in requests:
        ids = request.prompt_ids + request.token_ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, len(request.prompt_ids) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)[
            torch.arange(len(request.token_ids)), torch.tensor(request.token_ids)
        ]
        torch.testing.assert_close(torch.tensor(request.log_probs), expected, atol=1e-4, rtol=0)


def test_a_seeded_request_does_not_depend_on_its_neighbours(model: Qwen3ForCausalLM) -> None:
    def one() -> Request:
        return Request([5, 6, 7], max_tokens=16, seed=11, ignore_eos=True)

    (by_itself,) = sampled(ContinuousBatch(model, [EOS], PAD), one())
    crowd = [Request(prompt, max_tokens=9, seed=i) for i, prompt in enumerate(prompts(5))]
    crowded = ContinuousBatch(model, [EOS], PAD)
    crowded.add(crowd)
    crowded.step()
    assert sampled(crowded, one())[0] == by_itself
    other = Request([5, 6, 7], max_tokens=16, seed=12, ignore_eos=True)
    assert sampled(ContinuousBatch(model, [EOS], PAD), other)[0] != by_itself


def test_sampling_follows_the_models_distribution(
    model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    count = 4000
    requests = [Request([5, 6], max_tokens=1, temperature=1.5, seed=i) for i in range(count)]
    batch.add(requests)
    found = Counter(request.token_ids[0] for request in requests)
    probabilities = (logits_after(model, [5, 6]) / 1.5).softmax(-1).tolist()
    for token, probability in enumerate(probabilities):
        spread = math.sqrt(probability * (1 - probability) / count)
        assert abs(found[token] / count - probability) < 5 * spread + 1e-3


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_keeps_the_most_likely_tokens(
    top_k: int, model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    likely = set(logits_after(model, [5, 6]).topk(top_k).indices.tolist())
    requests = [Request([5, 6], max_tokens=1, top_k=top_k, seed=i) for i in range(300)]
    batch.add(requests)
    assert {request.token_ids[0] for request in requests} == likely


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9])
def test_top_p_keeps_the_smallest_set_that_reaches_it(
    top_p: float, model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    probabilities, order = logits_after(model, [5, 6]).softmax(-1).sort(descending=True)
    nucleus: set[int] = set()
    mass = 0.0
    for probability, token in zip(probabilities.tolist(), order.tolist(), strict=True):
        if mass >= top_p:
            break
        nucleus.add(token)
        mass += probability
    requests = [Request([5, 6], max_tokens=1, top_p=top_p, seed=i) for i in range(500)]
    batch.add(requests)
    drawn = {request.token_ids[0] for request in requests}
    assert drawn <= nucleus
    assert order[0].item() in drawn
    for request in requests:  # log-probabilities are those of the truncated distribution
        share = probabilities[order == request.token_ids[0]].item() / mass
        assert request.log_probs[0] == pytest.approx(math.log(share), abs=1e-4)


def test_temperatures_and_truncations_of_one_batch_do_not_mix(
    model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    greedy = Request([5, 6], max_tokens=8, temperature=0)
    hot = Request([5, 6], max_tokens=8, temperature=50.0, seed=1, ignore_eos=True)
    first = Request([5, 6], max_tokens=8, top_k=1, seed=2)
    sampled(batch, hot, greedy, first)
    assert greedy.token_ids == first.token_ids == alone(model, [5, 6], 8)
    assert hot.token_ids != greedy.token_ids


def test_an_answer_ends_with_its_end_token_or_at_its_limit(model: Qwen3ForCausalLM) -> None:
    batch = ContinuousBatch(model, [EOS], PAD)
    requests = [Request(prompt, max_tokens=24, temperature=0) for prompt in prompts(12)]
    for ids in sampled(batch, *requests):
        assert EOS not in ids[:-1]
        assert len(ids) == 24 or ids[-1] == EOS
    ignoring = [
        Request(prompt, max_tokens=24, temperature=0, ignore_eos=True) for prompt in prompts(12)
    ]
    assert all(len(ids) == 24 for ids in sampled(batch, *ignoring))
    assert any(EOS in request.token_ids[:-1] for request in ignoring)


def test_any_of_several_end_tokens_ends_an_answer(model: Qwen3ForCausalLM) -> None:
    first = alone(model, [5, 6], 1)[0]
    request = Request([5, 6], max_tokens=8, temperature=0)
    assert ContinuousBatch(model, [EOS, first], PAD).add([request]) == [request]


def test_a_request_of_one_token_never_enters_the_batch(batch: ContinuousBatch) -> None:
    request = Request([5, 6], max_tokens=1, temperature=0)
    assert batch.add([request]) == [request]
    assert len(batch) == 0
    assert batch.step() == []


def test_an_abort_returns_partial_answers_and_the_batch_goes_on(
    model: Qwen3ForCausalLM, batch: ContinuousBatch
) -> None:
    requests = [
        Request(prompt, max_tokens=24, temperature=0, ignore_eos=True) for prompt in prompts(3)
    ]
    batch.add(requests)
    batch.step()
    batch.step()
    assert batch.abort() == requests
    assert len(batch) == 0
    assert batch.abort() == []
    for request in requests:
        assert request.aborted
        assert len(request.token_ids) == len(request.log_probs) == 3
    # verl continues an aborted answer by asking again with what is there as the prompt.
    request = requests[0]
    after = Request(request.prompt_ids + request.token_ids, max_tokens=5, temperature=0)
    fresh = Request([7, 8, 9], max_tokens=12, temperature=0)
    sampled(batch, after, fresh)
    assert after.token_ids == alone(model, after.prompt_ids, 5)
    assert fresh.token_ids == alone(model, [7, 8, 9], 12)
    assert not after.aborted


def test_nothing_to_do_is_no_work(batch: ContinuousBatch) -> None:
    assert batch.add([]) == []
    assert batch.step() == []
