"""The openai back end against a real server: transformers serve with a tiny random model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from medical_team.judges import build_judge
from medical_team.judges.settings import OpenAISettings, TransformersSettings
from medical_team.medical_judge import JudgeError, Unscored, Verdict
from recipe.medical_selfplay.tiny.random_models import write_random_model

START_S = 180.0
COMMAND = Path(sys.executable).with_name("transformers")

pytestmark = pytest.mark.skipif(
    not COMMAND.exists() or find_spec("openai") is None,
    reason="transformers serve needs the package openai",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The server's address and the model's folder."""
    base = tmp_path_factory.mktemp("served")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--reasoning", "off"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(base / "hub")}
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(COMMAND), "serve", *options], stdout=log, stderr=log, env=environment
        )
    try:
        # The server starts meanwhile; it loads the model when it is first asked for.
        write_random_model(base / "model", "qwen3")
        deadline = time.monotonic() + START_S
        while not is_up(port):
            assert process.poll() is None, (base / "log").read_text()
            assert time.monotonic() < deadline, (base / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", base / "model"
    finally:
        process.terminate()
        process.wait(30)


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def settings_of(served: tuple[str, Path], **changed: Any) -> OpenAISettings:
    url, model = served
    options = {"urls": (url,), "model": str(model), "dialect": "none", "logprobs": False}
    return OpenAISettings(**(options | {"attempts": 2} | changed))


def test_labels_are_those_of_the_same_model_in_process(
    served: tuple[str, Path], games: Any
) -> None:
    remote = build_judge(settings_of(served))
    local = build_judge(TransformersSettings(model=str(served[1]), device="cpu", dtype="float32"))
    try:
        found = {one.query_id: one for one in remote.judge(games(6))}
        expected = {one.query_id: one for one in local.judge(games(6))}
    finally:
        remote.close()
        local.close()
    scored = [one for one in found.values() if isinstance(one, Verdict)]
    assert len(scored) >= 3
    for verdict in scored:
        same = expected[verdict.query_id]
        assert isinstance(same, Verdict)
        assert verdict.error_present is same.error_present
        assert verdict.error_identified == same.error_identified
        assert verdict.realistic is same.realistic
        assert verdict.probabilities is not None
        assert verdict.probabilities.error_present is None
        assert verdict.usage.prompt_tokens > 100


def test_reasoning_goes_before_the_label(served: tuple[str, Path], games: Any) -> None:
    judge = build_judge(settings_of(served, reasoning_tokens=8, ask_realistic=False))
    try:
        found = judge.judge(games(2))
    finally:
        judge.close()
    assert len(found) == 2
    for one in found:
        if isinstance(one, Verdict):
            # Eight tokens of reasoning and one of the label for each of two questions.
            assert 4 <= one.usage.output_tokens <= 18
        else:
            assert "neither Yes nor No" in one.reason


def test_dialect_that_the_server_does_not_speak_is_named_by_it(
    served: tuple[str, Path], games: Any
) -> None:
    judge = build_judge(settings_of(served, dialect="vllm"))
    try:
        found = judge.judge(games(1))
    except JudgeError as error:
        pytest.fail(f"one refused question must not end the batch: {error}")
    finally:
        judge.close()
    assert [type(one) for one in found] == [Unscored]
    assert "structured_outputs" in found[0].reason  # type: ignore[union-attr]
