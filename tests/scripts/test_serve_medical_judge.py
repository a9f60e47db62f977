"""The server as a process: starting, failing to start, ending, and a thousand clients at once."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "serve_medical_judge.py"

# The script with one more back end: the reference judge, slowed down or failing to load.
RUNNER = """
import runpy, sys, time
from dataclasses import dataclass
from medical_team.judges import BACK_ENDS
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import JudgeSettings
from medical_team.medical_judge import JudgeError

loading_s, judging_s = float(sys.argv.pop(1)), float(sys.argv.pop(1))

@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSettings(JudgeSettings):
    name: str = "slow"

class SlowJudge(ReferenceJudge):
    def judge(self, queries):
        time.sleep(judging_s)
        return super().judge(queries)

def build(settings):
    if loading_s < 0:
        raise JudgeError("the weights are not there; fetch them first")
    time.sleep(loading_s)
    return SlowJudge()

sys.modules["slow_judge"] = sys.modules["__main__"]
BACK_ENDS["slow"] = (SlowSettings, "slow_judge:build")
script = sys.argv.pop(1)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[str]
    url: str

    def until_healthy(self) -> dict[str, Any]:
        deadline = time.monotonic() + 90
        while (answer := httpx.get(f"{self.url}/health")).status_code != 200:
            assert answer.json()["status"] == "loading"
            assert time.monotonic() < deadline, "the judge was not loaded in time"
            time.sleep(0.1)
        return answer.json()

    def end(self) -> tuple[int, str]:
        """Ends it in good order; its exit code and what it said."""
        self.process.send_signal(signal.SIGTERM)
        return self.result()

    def result(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script on a free port; the slow judge takes its time to load and for a batch."""
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER, encoding="utf-8")
    with ExitStack() as stack:

        def run(
            *arguments: str, loading_s: float = 0.0, judging_s: float = 0.0, **environment: str
        ) -> Running:
            times = [str(loading_s), str(judging_s)]
            process = subprocess.Popen(
                [sys.executable, str(runner), *times, str(SCRIPT), "--port=0", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(_stop, process)
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"listening on (http://\S+), loading", line)
            return Running(process, found[1] if found else "")

        yield run


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


def query(query_id: str, number: int) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "clean_note": [f"Patient {number} takes aspirin."],
        "note": [f"Patient {number} takes warfarin."],
        "assessments": [{"classification": "Harmful", "sentence_id": 0, "correction": "x"}],
    }


def post(url: str, count: int) -> httpx.Response:
    body = {"queries": [query(f"q{number}", number) for number in range(count)]}
    return httpx.post(f"{url}/judge", json=body, timeout=30)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_accepted_requests_be_answered(start: Start, sent: signal.Signals) -> None:
    server = start("--backend=slow", "--max-batch=1", judging_s=0.3)
    server.until_healthy()

    async def ask() -> list[Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            bodies = [{"queries": [query("a", n), query("b", n)]} for n in range(3)]
            asked = [asyncio.create_task(client.post("/judge", json=body)) for body in bodies]
            await asyncio.sleep(0.4)
            server.process.send_signal(sent)
            await asyncio.sleep(0.3)
            late = client.post("/judge", json=bodies[0])
            return await asyncio.gather(*asked, late, return_exceptions=True)

    *accepted, late = asyncio.run(ask())
    for answer in accepted:
        assert isinstance(answer, httpx.Response)
        assert {one["query_id"] for one in answer.json()["verdicts"]} == {"a", "b"}
    assert isinstance(late, httpx.ConnectError) or late.status_code == 503
    assert server.result() == (0, "")


def test_second_signal_ends_at_once(start: Start) -> None:
    server = start("--backend=slow", judging_s=30)
    server.until_healthy()

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            asked = asyncio.create_task(client.post("/judge", json={"queries": [query("a", 1)]}))
            await asyncio.sleep(0.3)
            for _ in range(2):
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
            with pytest.raises(httpx.TransportError):
                await asked

    asyncio.run(ask())
    assert server.result()[0] == 128 + signal.SIGTERM


def test_port_answers_and_signals_are_heard_while_the_judge_loads(start: Start) -> None:
    server = start("--backend=slow", loading_s=60)
    assert httpx.get(f"{server.url}/health").json()["status"] == "loading"
    refused = post(server.url, 1)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.end() == (0, "")


def test_judge_that_cannot_be_loaded_ends_the_process(start: Start) -> None:
    code, errors = start("--backend=slow", loading_s=-1).result()
    assert code == 1
    assert errors == (
        "the judge could not be loaded: the weights are not there; fetch them first\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend=reference", "--host=0.0.0.0"], "MEDICAL_JUDGE_API_KEY is not set"),
        (["--backend=transformers"], "judge.model is empty"),
        (["--backend=reference", "--max-queue=0"], "max_queue is 0"),
        (["--backend=reference", "--max-held-bytes=9"], "at least max_request_bytes"),
    ],
)
def test_wrong_command_line_is_refused(start: Start, arguments: list[str], message: str) -> None:
    code, errors = start(*arguments, MEDICAL_JUDGE_API_KEY="").result()
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_taken_port_is_named(start: Start) -> None:
    first = start("--backend=reference")
    port = httpx.URL(first.url).port
    code, errors = start("--backend=reference", f"--port={port}").result()
    assert code == 2
    assert f"port {port}" in errors
    assert "--port" in errors
    assert first.end() == (0, "")


def test_key_from_the_environment_is_asked_for(start: Start) -> None:
    server = start("--backend=reference", MEDICAL_JUDGE_API_KEY="secret")
    server.until_healthy()
    assert post(server.url, 1).status_code == 401
    assert server.end() == (0, "")


def test_thousand_clients_get_their_own_answers_in_flat_memory(start: Start) -> None:
    server = start(
        "--backend=slow", "--max-queue=4000", "--max-request-bytes=8000", "--set=cache_size=0"
    )
    server.until_healthy()
    memory = psutil.Process(server.process.pid)
    sizes = random.Random(1).choices([1, 3, 10, 25, 60], [5, 5, 4, 3, 1], k=1000)
    resident = []
    for turn in range(2):
        statuses = asyncio.run(thousand(server.url, sizes, turn))
        assert statuses.keys() <= {200, 413, 429}
        assert statuses[413] == sizes.count(60)
        assert statuses[200] >= 100
        resident.append(memory.memory_info().rss / 2**20)
    assert resident[1] - resident[0] < 8, f"resident MiB after each round: {resident}"
    assert server.end() == (0, "")


async def thousand(url: str, sizes: list[int], turn: int) -> Counter[int]:
    async with AsyncExitStack() as stack:
        # Fifty clients: the connection pool of one takes its time over a thousand connections.
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
            for _ in range(50)
        ]
        asked = (
            one_client(clients[number % 50], size, turn * 1000 + number)
            for number, size in enumerate(sizes)
        )
        return Counter(await asyncio.gather(*asked))


async def one_client(client: httpx.AsyncClient, size: int, number: int) -> int:
    ids = [f"{number}-{index}" for index in range(size)]
    # The answer tells whose it is: every other game holds an error.
    queries = [query(one, number) for one in ids]
    for even in queries[::2]:
        even["note"] = even["clean_note"]
    answer = await client.post("/judge", json={"queries": queries})
    if answer.status_code == 200:
        labels = {one["query_id"]: one["error_present"] for one in answer.json()["verdicts"]}
        assert labels == {one: index % 2 == 1 for index, one in enumerate(ids)}
    elif answer.status_code == 429:
        assert int(answer.headers["Retry-After"]) >= 1
    return answer.status_code


def test_real_model_is_served(start: Start, tmp_path: Path) -> None:
    from recipe.medical_selfplay.tiny.random_models import write_random_model

    folder = tmp_path / "model"
    write_random_model(folder, family="qwen3")
    # Random weights put what they like on the two words.
    options = ("--backend=transformers", "--device=cpu", "--set=min_label_mass=0")
    server = start(*options, f"--model={folder}")
    health = server.until_healthy()
    assert (health["status"], health["model"]) == ("healthy", str(folder))
    answer = post(server.url, 3).json()
    assert {one["query_id"] for one in answer["verdicts"]} == {"q0", "q1", "q2"}
    for verdict in answer["verdicts"]:
        assert 0 <= verdict["probabilities"]["error_present"] <= 1
        assert verdict["usage"]["prompt_tokens"] > 0
    game = {"game_idx": 0, "prompt": "0. He has a cough.", "response": "no format"}
    (label,) = httpx.post(f"{server.url}/classify", json={"queries": [game]}).json()["labels"]
    assert label["prompt_harmfulness"] in ("harmful", "unharmful")
    assert label["response_refusal"] is None
    assert server.end()[0] == 0
