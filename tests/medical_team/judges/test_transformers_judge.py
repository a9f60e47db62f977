"""The transformers back end on random models of the real architectures."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from medical_team.answers import Assessment, Classification
from medical_team.judges import build_judge
from medical_team.judges.encoding import label_ids
from medical_team.judges.local_model import check_layers, check_precision, load, revision_of
from medical_team.judges.model_judge import Answer
from medical_team.judges.questions import JudgePrompt, PromptKey, Question, prompts_of
from medical_team.judges.settings import TransformersSettings
from medical_team.judges.transformers import TransformersEngine, build
from medical_team.medical_judge import (
    JudgeError,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)
from recipe.medical_selfplay.tiny.judge_tokenizers import judge_prompts
from recipe.medical_selfplay.tiny.random_models import FAMILIES, Family, write_random_model

TINY_MODEL = Path(__file__).resolve().parents[3] / "data" / "tiny_model"
CLOSE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower on more
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    base = tmp_path_factory.mktemp("random")
    for family in FAMILIES:
        write_random_model(base / family, family)
    return {family: base / family for family in FAMILIES}


@pytest.fixture(scope="module")
def loaded(folders: dict[Family, Path]) -> dict[Family, tuple[Any, Any]]:
    return {family: load(settings(folders[family])) for family in FAMILIES}


@pytest.fixture(scope="module")
def prompts() -> list[JudgePrompt]:
    return list(judge_prompts(9, random.Random(4)))


def settings(model: Path, **changes: Any) -> TransformersSettings:
    return TransformersSettings(
        **{"model": str(model), "device": "cpu", "dtype": "float32", **changes}
    )


def engine_of(
    loaded: tuple[Any, Any], max_batch_tokens: int = 6000, max_prompt_tokens: int = 8192
) -> TransformersEngine:
    tokenizer, model = loaded
    return TransformersEngine(
        model,
        tokenizer,
        max_batch_tokens=max_batch_tokens,
        max_prompt_tokens=max_prompt_tokens,
    )


def asked_alone(loaded: tuple[Any, Any], messages: list[dict[str, str]]) -> tuple[float, float]:
    """P(yes) and label mass by the obvious way: the chat template, one plain forward pass."""
    tokenizer, model = loaded
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        probabilities = model(input_ids=ids).logits[0, -1].float().softmax(-1)
    labels = label_ids(tokenizer)
    yes, no = (probabilities[list(words)].sum() for words in (labels.yes, labels.no))
    return (yes / (yes + no)).item(), (yes + no).item()


def p_yes(answers: Mapping[PromptKey, Answer | JudgeError]) -> dict[PromptKey, float]:
    found = {}
    for key, answer in answers.items():
        assert isinstance(answer, Answer), answer
        assert answer.p_yes is not None
        found[key] = answer.p_yes
    return found


def assert_same_answers(
    loaded: tuple[Any, Any],
    prompts: Sequence[JudgePrompt],
    answers: Mapping[PromptKey, Answer | JudgeError],
) -> None:
    assert set(answers) == {prompt.key for prompt in prompts}
    for prompt in prompts:
        answer = answers[prompt.key]
        assert isinstance(answer, Answer), answer
        expected, mass = asked_alone(loaded, prompt.messages)
        assert answer.p_yes == pytest.approx(expected, abs=CLOSE)
        assert answer.label_mass == pytest.approx(mass, abs=CLOSE)
        assert answer.yes is (answer.p_yes >= 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_questions_are_answered_as_if_each_were_asked_alone(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt], family: Family
) -> None:
    answers = engine_of(loaded[family]).answer(prompts, 0)
    assert_same_answers(loaded[family], prompts, answers)
    assert len({round(p, 3) for p in p_yes(answers).values()}) > len(prompts) / 2


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_models_without_layer_types_are_packed_as_well(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt], kind: str
) -> None:
    tokenizer, _ = loaded["qwen3"]
    torch.manual_seed(1)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "initializer_range": 0.2,
    }
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape))
    else:
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=50))
    pair = tokenizer, model.eval()
    assert_same_answers(pair, prompts[:8], engine_of(pair).answer(prompts[:8], 0))


def test_capped_logits_are_capped(
    loaded: dict[Family, tuple[Any, Any]], folders: dict[Family, Path], prompts: list[JudgePrompt]
) -> None:
    tokenizer, model = load(settings(folders["gemma3"]))
    model.config.final_logit_softcapping = 5.0
    capped = tokenizer, model
    answers = engine_of(capped).answer(prompts[:6], 0)
    assert_same_answers(capped, prompts[:6], answers)
    free = engine_of(loaded["gemma3"]).answer(prompts[:6], 0)
    assert p_yes(answers) != pytest.approx(p_yes(free), abs=CLOSE)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
@pytest.mark.parametrize("max_batch_tokens", [1, 900, 50_000])
def test_the_batch_does_not_change_an_answer(
    loaded: dict[Family, tuple[Any, Any]],
    prompts: list[JudgePrompt],
    family: Family,
    max_batch_tokens: int,
) -> None:
    alone = engine_of(loaded[family])
    single: dict[PromptKey, Answer | JudgeError] = {}
    for prompt in prompts:
        single |= alone.answer([prompt], 0)
    together = engine_of(loaded[family], max_batch_tokens).answer(prompts, 0)
    assert p_yes(together) == pytest.approx(p_yes(single), abs=CLOSE)


def test_the_order_of_the_prompts_does_not_change_an_answer(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    shuffled = random.Random(0).sample(prompts, len(prompts))
    engine = engine_of(loaded["gemma3"])
    assert p_yes(engine.answer(shuffled, 0)) == pytest.approx(
        p_yes(engine.answer(prompts, 0)), abs=CLOSE
    )


def test_only_the_game_with_too_long_a_prompt_is_left_out(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    long = JudgePrompt(
        PromptKey("long", Question.ERROR_PRESENT), prompts[0].rubric, "word " * 900, "Well?"
    )
    answers = engine_of(loaded["qwen3"], max_prompt_tokens=800).answer([*prompts, long], 0)
    failed = {key: answer for key, answer in answers.items() if isinstance(answer, JudgeError)}
    assert list(failed) == [long.key]
    assert "judge.max_prompt_tokens is 800" in str(failed[long.key])


@pytest.mark.parametrize("reasoning_tokens", [0, 4])
def test_broken_weights_give_no_label(
    folders: dict[Family, Path], prompts: list[JudgePrompt], reasoning_tokens: int
) -> None:
    tokenizer, model = load(settings(folders["qwen3"]))
    model.lm_head.weight[:, 0] = float("nan")
    answers = engine_of((tokenizer, model)).answer(prompts[:4], reasoning_tokens)
    assert len(answers) == 4
    for answer in answers.values():
        assert isinstance(answer, JudgeError)
        assert "not a number" in str(answer)


def test_one_game_with_nan_leaves_the_others_alone(
    folders: dict[Family, Path], prompts: list[JudgePrompt]
) -> None:
    tokenizer, model = load(settings(folders["qwen3"]))
    (token,) = tokenizer("§", add_special_tokens=False)["input_ids"][-1:]
    model.get_input_embeddings().weight[token] = float("nan")
    hurt = JudgePrompt(PromptKey("hurt", Question.REALISTIC), prompts[0].rubric, "§\n\n", "Well?")
    answers = engine_of((tokenizer, model)).answer([*prompts, hurt], 0)
    assert [key for key, a in answers.items() if isinstance(a, JudgeError)] == [hurt.key]


def test_usage_counts_each_prompt_whole_and_what_was_shared(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    tokenizer, _ = loaded["qwen3"]
    engine = engine_of(loaded["qwen3"])
    of_game = [p for p in prompts if p.key.query_id == "2" and not p.key.swapped]
    rubric = (
        len(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": of_game[0].rubric}], return_dict=False
            )
        )
        - 2
    )
    first, *others = engine.answer(of_game, 0).values()
    again, *_ = engine.answer(of_game, 0).values()
    assert isinstance(first, Answer) and isinstance(again, Answer) and others
    whole = tokenizer.apply_chat_template(
        of_game[0].messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert first.usage.prompt_tokens == len(whole)
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == pytest.approx(rubric, abs=1)
    for other in others:
        assert isinstance(other, Answer)
        assert other.usage.cached_tokens is not None
        assert rubric < other.usage.cached_tokens < other.usage.prompt_tokens
        assert other.usage.output_tokens == 0


def games_of_cases(cases: int, each: int) -> list[JudgePrompt]:
    """Questions about several games of the same cases, whose prompts begin alike."""
    rng = random.Random(8)
    found = []
    for case in range(cases):
        clean = [f"Finding {rng.randint(100, 999)} of case {case}." for _ in range(12)]
        for number in range(each):
            note = list(clean)
            note[rng.randrange(12)] = "Another finding was seen."
            text = "\n".join(["Reference", *clean, "", f"Note {rng.random()}", *note, "", ""])
            for question in (Question.ERROR_PRESENT, Question.REALISTIC):
                key = PromptKey(f"{case}-{number}", question)
                found.append(JudgePrompt(key, "The rules.\n\n", text, f"Is it {question}?"))
    return rng.sample(found, len(found))


@pytest.mark.parametrize("max_batch_tokens", [1500, 50_000])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_games_that_begin_alike_share_their_beginning_and_nothing_else(
    loaded: dict[Family, tuple[Any, Any]], family: Family, max_batch_tokens: int
) -> None:
    prompts = games_of_cases(3, 4)
    answers = engine_of(loaded[family], max_batch_tokens).answer(prompts, 0)
    assert_same_answers(loaded[family], prompts, answers)


def test_what_games_begin_with_is_computed_once(
    loaded: dict[Family, tuple[Any, Any]],
) -> None:
    def computed(prompts: Sequence[JudgePrompt]) -> int:
        engine = engine_of(loaded["qwen3"], 50_000)
        usages = [a.usage for a in engine.answer(prompts, 0).values() if isinstance(a, Answer)]
        assert len(usages) == len(prompts)
        return sum(one.prompt_tokens - (one.cached_tokens or 0) for one in usages)

    prompts = games_of_cases(1, 4)
    tokenizer, _ = loaded["qwen3"]
    opening = prompts[0].case.partition("Note")[0]
    tokens = len(tokenizer(opening, add_special_tokens=False)["input_ids"])
    alone = sum(computed([p for p in prompts if p.key.query_id == f"0-{n}"]) for n in range(4))
    rubric = len(tokenizer(prompts[0].rubric, add_special_tokens=False)["input_ids"])
    assert computed(prompts) == pytest.approx(alone - 3 * (rubric + tokens), rel=0.05)


class ShortOfMemory:
    """Lets a model fail as a GPU does when a batch has more rows than fit."""

    def __init__(self, model: Any, most_rows: int) -> None:
        self.rows: list[int] = []
        self._most = most_rows
        self._handle = model.get_decoder().register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, _: Any, __: Any, arguments: dict[str, Any]) -> None:
        ids = arguments["input_ids"]
        self.rows.append(len(ids))
        if len(ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def end(self) -> None:
        self._handle.remove()


@pytest.fixture
def short_of_memory(
    loaded: dict[Family, tuple[Any, Any]],
) -> Iterator[Callable[[int], ShortOfMemory]]:
    made: list[ShortOfMemory] = []

    def make(most_rows: int) -> ShortOfMemory:
        made.append(ShortOfMemory(loaded["qwen3"][1], most_rows))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.mark.parametrize("reasoning_tokens", [0, 3])
def test_a_batch_too_large_for_the_memory_is_computed_in_halves(
    loaded: dict[Family, tuple[Any, Any]],
    prompts: list[JudgePrompt],
    short_of_memory: Callable[[int], ShortOfMemory],
    reasoning_tokens: int,
) -> None:
    engine = engine_of(loaded["qwen3"], 50_000)
    expected = p_yes(engine.answer(prompts, reasoning_tokens))
    memory = short_of_memory(2)
    assert p_yes(engine.answer(prompts, reasoning_tokens)) == pytest.approx(expected, abs=CLOSE)
    assert max(memory.rows) > 2  # it was tried


def test_a_game_that_does_not_fit_alone_is_named_and_no_outage(
    loaded: dict[Family, tuple[Any, Any]],
    prompts: list[JudgePrompt],
    short_of_memory: Callable[[int], ShortOfMemory],
) -> None:
    short_of_memory(0)
    for answer in engine_of(loaded["qwen3"]).answer(prompts, 0).values():
        assert isinstance(answer, JudgeError) and not isinstance(answer, JudgeUnavailableError)
        assert "judge.gpu_memory_gb" in str(answer)


def test_a_failing_device_leaves_games_unscored_since_waiting_does_not_mend_it(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    handle = loaded["qwen3"][1].get_decoder().register_forward_pre_hook(fail)
    try:
        answers = engine_of(loaded["qwen3"]).answer(prompts[:3], 0)
    finally:
        handle.remove()
    for answer in answers.values():
        assert isinstance(answer, JudgeError)
        assert not isinstance(answer, JudgeUnavailableError)
        assert str(answer).endswith("CUDA error: an illegal memory access was encountered")


def test_a_closed_engine_is_out_of_order(
    folders: dict[Family, Path], prompts: list[JudgePrompt]
) -> None:
    engine = engine_of(load(settings(folders["qwen3"])))
    engine.answer(prompts[:2], 0)
    engine.close()
    for answer in engine.answer(prompts[:2], 0).values():
        assert isinstance(answer, JudgeUnavailableError)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_after_reasoning_the_answer_is_that_of_the_whole_conversation(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt], family: Family
) -> None:
    tokenizer, model = loaded[family]
    answers = engine_of(loaded[family]).answer(prompts[:5], 6)
    for prompt in prompts[:5]:
        ids = tokenizer.apply_chat_template(
            prompt.messages,
            add_generation_prompt=True,
            enable_thinking=False,
            return_tensors="pt",
            return_dict=True,
        )
        spoken = model.generate(**ids, max_new_tokens=6, do_sample=False)[0]
        said = tokenizer.decode(spoken[ids["input_ids"].shape[1] :], skip_special_tokens=True)
        expected, _ = asked_alone(loaded[family], prompt.messages_after(said))
        answer = answers[prompt.key]
        assert isinstance(answer, Answer)
        assert answer.p_yes == pytest.approx(expected, abs=CLOSE)
        assert 0 < answer.usage.output_tokens <= 6
        assert answer.usage.prompt_tokens > 2 * ids["input_ids"].shape[1]


def test_threads_get_what_one_thread_gets(
    loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    engine = engine_of(loaded["gemma3"])
    expected = p_yes(engine.answer(prompts, 0))
    parts = [prompts[start::4] for start in range(4)] * 2
    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(lambda part: engine.answer(part, 0), parts):
            for key, value in p_yes(answers).items():
                assert value == pytest.approx(expected[key], abs=CLOSE)


def game(
    number: int, answers: int = 1, words: Sequence[str] = ("penicillin", "vancomycin")
) -> JudgeQuery:
    """A game in which two sentences were changed, so that the judge is asked about each answer."""
    rng = random.Random(number)
    age = rng.randint(20, 90)
    clean = (
        f"A {age}-year-old man has a cough.",
        "Sputum grows mycoplasma.",
        f"He gets {words[0]}.",
    )
    note = (
        f"A {age}-year-old man has a fever.",
        "Sputum grows mycoplasma.",
        f"He gets {words[1]}.",
    )
    said = Assessment(Classification.HARMFUL, 2, clean[2])
    return JudgeQuery(f"game-{number}", clean, note, (said,) * answers)


GAMES = [game(number) for number in range(12)]


def verdicts(model: Path, **changes: Any) -> dict[str, Verdict | Unscored]:
    judge = build_judge(settings(model, **changes))
    try:
        found = {one.query_id: one for one in judge.judge(GAMES)}
    finally:
        judge.close()
    assert set(found) == {query.query_id for query in GAMES}
    return found


def present(verdict: Verdict | Unscored) -> float:
    assert isinstance(verdict, Verdict) and verdict.probabilities is not None
    assert verdict.probabilities.error_present is not None
    return verdict.probabilities.error_present


def test_the_judge_labels_each_game_by_the_threshold(folders: dict[Family, Path]) -> None:
    folder = folders["gemma3_vision"]
    told = {name: present(verdict) for name, verdict in verdicts(folder).items()}
    middle = sorted(told.values())[len(told) // 2]
    for name, verdict in verdicts(folder, threshold=middle).items():
        assert isinstance(verdict, Verdict)
        assert verdict.error_present is (told[name] >= middle)
        assert verdict.source == f"transformers:{folder}"
        assert verdict.realistic in (True, False)
        if not verdict.error_present:
            assert verdict.error_identified == (False,)


def test_games_near_the_threshold_are_ties(folders: dict[Family, Path]) -> None:
    told = {name: present(verdict) for name, verdict in verdicts(folders["qwen3"]).items()}
    middle = sorted(told.values())[len(told) // 2]
    band = 2 * sorted(abs(value - middle) for value in told.values())[3] + 1e-3
    tied = {
        name
        for name, verdict in verdicts(folders["qwen3"], threshold=middle, tie_band=band).items()
        if isinstance(verdict, Verdict) and verdict.error_present is None
    }
    assert tied == {name for name, value in told.items() if abs(value - middle) <= band / 2}
    assert 0 < len(tied) < len(told)


def test_a_judge_that_contradicts_itself_leaves_the_game_unscored(
    folders: dict[Family, Path], loaded: dict[Family, tuple[Any, Any]]
) -> None:
    orders = {}
    for query in GAMES:
        asked = prompts_of(query, both_orders=True, ask_realistic=False, reasoning=False)
        told = engine_of(loaded["gemma3"]).answer(
            [p for p in asked if p.key.question is Question.ERROR_PRESENT], 0
        )
        orders[query.query_id] = sorted(p_yes(told).values())
    # Just above the smallest of all: between that game's two orders, and perhaps others'.
    low = min(orders.values())
    threshold = (low[0] + low[1]) / 2
    found = verdicts(folders["gemma3"], both_orders=True, threshold=threshold)
    unscored = {name for name, one in found.items() if isinstance(one, Unscored)}
    assert unscored == {name for name, (a, b) in orders.items() if a < threshold <= b} != set()
    assert unscored != set(found)
    assert all(
        "contradicts itself" in one.reason for one in found.values() if isinstance(one, Unscored)
    )


def test_a_model_that_wants_to_say_something_else_gives_no_label() -> None:
    # The embedded player has never seen a judge's prompt.
    found = verdicts(TINY_MODEL, min_label_mass=0.5)
    assert all(
        isinstance(one, Unscored) and "neither Yes nor No" in one.reason for one in found.values()
    )


def test_the_revision_follows_the_files_and_not_their_place(
    tmp_path: Path, folders: dict[Family, Path]
) -> None:
    copies = [Path(shutil.copytree(folders["qwen3"], tmp_path / name)) for name in "ab"]
    weights = copies[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    original, same, other = (revision_of(str(f)) for f in (folders["qwen3"], *copies))
    assert original == same != other


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("google/medgemma-4b-it", ["gated", "HF_TOKEN", "--download-model google/medgemma-4b-it"]),
        ("someone/judge", ["--download-model someone/judge"]),
        ("./nowhere/judge", ["expected a folder with config.json"]),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_fix(model: str, expected: list[str]) -> None:
    with pytest.raises(JudgeError) as error:
        build(TransformersSettings(model=model, device="cpu"))
    assert all(words in str(error.value) for words in expected)


def test_a_folder_without_weights_is_named(tmp_path: Path, folders: dict[Family, Path]) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((folders["qwen3"] / name).read_bytes())
    with pytest.raises(JudgeError, match="weights as safetensors"):
        build(settings(tmp_path))


def test_gemma_in_float16_is_refused(folders: dict[Family, Path]) -> None:
    with pytest.raises(JudgeError, match=r"judge\.dtype=bfloat16"):
        build(settings(folders["gemma3_vision"], dtype="float16"))
    check_precision(AutoConfig.from_pretrained(folders["qwen3"]), "float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(folders: dict[Family, Path]) -> None:
    with pytest.raises(JudgeError, match=r"set judge\.device=cpu"):
        build(settings(folders["qwen3"], device="cuda"))


def test_bfloat16_gives_nearly_the_same_answers(
    folders: dict[Family, Path], loaded: dict[Family, tuple[Any, Any]], prompts: list[JudgePrompt]
) -> None:
    half = load(settings(folders["gemma3"], dtype="bfloat16"))
    assert half[1].dtype is torch.bfloat16
    assert p_yes(engine_of(half).answer(prompts, 0)) == pytest.approx(
        p_yes(engine_of(loaded["gemma3"]).answer(prompts, 0)), abs=0.1
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"num_kv_shared_layers": 1}, "share keys"),
        ({"logit_scale": 0.5}, "logit_scale"),
    ],
)
def test_a_model_that_cannot_be_packed_is_refused(
    folders: dict[Family, Path], changed: dict[str, Any], message: str
) -> None:
    _, model = load(settings(folders["qwen3"]))
    for name, value in changed.items():
        object.__setattr__(model.config, name, value)
    with pytest.raises(JudgeError, match=message):
        check_layers(model)
