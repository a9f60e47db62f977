"""The committed tiny model: what the embedded default relies on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from medical_team.answers import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, format_response
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import Game, GameType
from medical_team.prompts import find_control_text, neutralise
from medical_team.sample_world.knowledge import CONDITIONS, Fact, values
from medical_team.sample_world.supervised import random_example
from recipe.medical_selfplay.supervised_dataset import SupervisedGames
from recipe.medical_selfplay.tiny.evaluation import (
    MAX_RESPONSE_TOKENS,
    RULES,
    as_table,
    evaluate,
    is_real_error,
)
from recipe.medical_selfplay.tiny.tokenizer import END, PAD, train_tokenizer
from recipe.medical_selfplay.tiny.training import (
    Target,
    TrainerFailed,
    new_model,
    prepare,
    save,
    train,
)

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data" / "tiny_model"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Iterator[PreTrainedModel]:
    threads = torch.get_num_threads()
    # So small a model is slower on more threads, and far slower where cores are shared.
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(MODEL, local_files_only=True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def val_cases() -> list[Case]:
    return list(read_medec(ROOT / "data" / "sample" / "val.csv", "val"))


def example_texts(count: int) -> list[str]:
    rng = random.Random(0)
    examples = [random_example(rng) for _ in range(count)]
    return [text for e in examples for text in (e.messages[0]["content"], e.response)]


def test_the_folder_is_small_enough_to_commit() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5 * MEGABYTE


def test_the_vocabulary_is_exactly_the_tokenizers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    # Rows without a token would get probability at rollout that training never sees.
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings


def test_weights_fit_the_kernels_and_hold_a_medec_note(model: PreTrainedModel) -> None:
    assert model.config.head_dim == 32
    assert model.config.max_position_embeddings >= 4096
    assert model.config.tie_word_embeddings


def test_generation_ends_at_the_end_of_a_turn(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token == PAD
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert json.loads((MODEL / "generation_config.json").read_text())["top_k"] == 0


def test_the_chat_template_marks_every_role(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "system", "content": "rules"}, {"role": "user", "content": "note"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>rules<|end|><|user|>note<|end|><|assistant|>"
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_chat_template_refuses_an_unknown_role(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_no_note_can_write_a_control_token(tokenizer: PreTrainedTokenizerBase) -> None:
    tags = {THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE}
    control = {*tokenizer.all_special_tokens, *tags}
    assert set(tokenizer.get_added_vocab()) == control
    for token in control:
        assert find_control_text(f"a {token} b") == token
        ids = tokenizer(neutralise(f"a {token} b"), add_special_tokens=False)["input_ids"]
        assert not set(ids) & set(tokenizer.convert_tokens_to_ids(list(control)))


def test_tags_survive_decoding_and_special_tokens_do_not(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = f"\nx\n{THINK_CLOSE}\n{ANSWER_OPEN}\ny\n{ANSWER_CLOSE}"
    ids = tokenizer(text + END, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_each_word_of_the_clinic_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    phrases = [value for fact in Fact for value in values(fact)] + [c.finding for c in CONDITIONS]
    for word in {word for phrase in phrases for word in phrase.split()}:
        pieces = tokenizer.tokenize(f" {word}")
        # Hyphens part a word; what stands between them is still one token.
        assert len(pieces) == word.count("-") + 1, word


@pytest.mark.parametrize("number", range(9))
def test_a_sentence_number_is_a_token_of_its_own(
    tokenizer: PreTrainedTokenizerBase, number: int
) -> None:
    at_line_start = tokenizer(f"\n{number}.", add_special_tokens=False)["input_ids"]
    elsewhere = tokenizer(f" {number} 1{number}", add_special_tokens=False)["input_ids"]
    assert len(at_line_start) == 1
    assert not set(at_line_start) & set(elsewhere)


def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Na+ 137 mEq/L;\n\n10. β-blocker, 38.1°C (100.6°F)\tÅngström  naïve.\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_prompts_and_worked_answers_are_short(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(1)
    examples = [random_example(rng) for _ in range(400)]
    prompts = [
        tokenizer.apply_chat_template(e.messages, add_generation_prompt=True, tokenize=False)
        for e in examples
    ]
    assert max(len(ids) for ids in tokenizer(prompts)["input_ids"]) + 1 <= 128
    responses = tokenizer([e.response + END for e in examples], add_special_tokens=False)
    assert max(len(ids) for ids in responses["input_ids"]) <= 70


def test_it_keeps_the_format_and_plays_better_than_chance(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, val_cases: list[Case]
) -> None:
    scores = evaluate(model, tokenizer, val_cases, temperature=1.0, seed=7)
    assert scores.format_kept > 0.95
    assert 0.54 < scores.balanced_accuracy < 0.85
    assert scores.inject_real > 0.65
    assert scores.hide_real > 0.5
    assert scores.max_tokens <= MAX_RESPONSE_TOKENS


def test_evaluation_leaves_the_random_state_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, val_cases: list[Case]
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    evaluate(model, tokenizer, val_cases[:1], temperature=1.0)
    assert torch.rand(1) == expected


def test_greedy_scores_do_not_depend_on_the_seed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, val_cases: list[Case]
) -> None:
    one, other = (
        evaluate(model, tokenizer, val_cases[:4], temperature=0.0, seed=seed) for seed in (1, 2)
    )
    assert one == other
    assert f"| format_kept | {one.format_kept:.3g} |" in as_table({"greedy": one})


def attacked(case: Case, game_type: GameType, sentence_id: int, rewrite: str) -> Game:
    game = Game(case, game_type, RULES)
    answer = f"Sentence: {sentence_id}\nRewrite: {rewrite}"
    game.play_attack(format_response("x", answer, think_opened=True))
    return game


def test_only_a_wrong_fact_counts_as_a_real_error(val_cases: list[Case]) -> None:
    case = val_cases[0]
    at, wrong = case.error_sentence_id, case.error_sentence
    assert is_real_error(attacked(case, GameType.ADVERSARIAL_BENIGN, at, wrong))
    reworded = case.corrected_sentence.replace(".", " today.")
    assert not is_real_error(attacked(case, GameType.ADVERSARIAL_BENIGN, at, reworded))
    assert not is_real_error(attacked(case, GameType.ADVERSARIAL_BENIGN, at, "Nothing is known."))
    mended = attacked(case, GameType.ADVERSARIAL_HARMFUL, at, case.corrected_sentence)
    assert not is_real_error(mended)


def test_the_same_seed_prepares_the_same_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.medical_selfplay.tiny.training._TOKENIZER_TEXTS", 200)
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        prepare(tmp_path / name, seed=seed, examples=20)
    parts = ("train.parquet", "untrained/model.safetensors")
    one, again, other = (
        [(tmp_path / name / part).read_bytes() for part in parts]
        for name in ("one", "again", "other")
    )
    assert one == again
    assert all(mine != theirs for mine, theirs in zip(one, other, strict=True))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one/untrained", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one/untrained", local_files_only=True)
    assert loaded.config.vocab_size == len(tokenizer)
    rows = SupervisedGames(
        str(tmp_path / "one/train.parquet"),
        tokenizer,
        OmegaConf.create(
            {
                "pad_mode": "no_padding",
                "messages_key": "messages",
                "max_length": 512,
                "think_opened": True,
                "prompt_loss_weight": 0.3,
                "apply_chat_template_kwargs": {},
            }
        ),
    )
    assert len(rows) == 20


def test_a_trainer_that_ends_early_is_told_with_the_end_of_its_log(
    tmp_path: Path, val_cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = "recipe.medical_selfplay.tiny.training"
    monkeypatch.setattr(f"{training}._TOKENIZER_TEXTS", 200)
    monkeypatch.setattr(f"{training}._SETTINGS", ("hardware=abacus",))
    with pytest.raises(TrainerFailed, match=r"exit code 1 before step 1;[\s\S]*abacus"):
        train(
            tmp_path / "model",
            val_cases[:1],
            seed=0,
            max_steps=1,
            target=Target(),
            threads=1,
            log=lambda _: None,
        )
    assert not (tmp_path / "model").exists()


def test_a_failed_save_leaves_the_old_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = train_tokenizer(example_texts(100), 600, 4096)
    save(new_model(small), small, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = new_model(small)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(broken, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        save(broken, small, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
