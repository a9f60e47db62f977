"""A judge that fails, goes away, or never comes back teaches the policy nothing."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response

from medical_team.judges.reference import ReferenceJudge, wrong_sentences
from medical_team.judges.wire import JudgeRequest, JudgeResponse, UnscoredOut, VerdictOut
from medical_team.medec import read_medec
from medical_team.medical_judge import Verdict

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
AWAY_S = 60  # how long the server stays away
SHORT = (
    "trainer.total_training_steps=2",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=1",
)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Server:
    """The judge server with the reference judge, in a process of its own."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "scripts/serve_medical_judge.py", "--backend", "reference"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=ROOT, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail(f"the judge server did not start:\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server.log")
    yield server
    server.kill()


def remote(url: str, *more: str) -> tuple[str, ...]:
    return (
        "judge=remote",
        f"judge.urls=[{url}]",
        "judge.calibration=data/sample/judge_reference.json",
        *more,
    )


def identities(games: dict[int, list[dict[str, Any]]]) -> list[Counter[tuple[Any, ...]]]:
    return [
        Counter((game["case_id"], game["game_type"], game["session"]) for game in games[step])
        for step in sorted(games)
    ]


def played(games: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was said and what it was worth, without ids, times and who judged."""
    return sorted(
        (
            game["case_id"],
            game["game_type"],
            game["session"],
            [(turn["response"], turn["reward"], turn["trained"]) for turn in game["turns"]],
        )
        for game in games
    )


def test_a_judge_that_is_away_for_a_while_costs_no_game(
    train: Callable[..., Any], sample_rows: Path, server: Server
) -> None:
    usual = train(f"data_dir={sample_rows}", *SHORT, folder="usual")
    assert usual.wait() == 0, usual.tail()

    server.start()
    run = train(
        f"data_dir={sample_rows}",
        *SHORT,
        "trainer.val_before_train=true",
        *remote(server.url),
        folder="away",
    )
    run.wait_for(run.folder / "games" / "val" / "step_000000.jsonl")
    server.kill()  # the first step's games are being played
    time.sleep(AWAY_S)
    assert run.process.poll() is None, run.tail()
    assert not (run.folder / "games" / "train").exists()
    server.start()
    assert run.wait() == 0, run.tail()

    assert identities(run.games()) == identities(usual.games())
    assert played(run.games()[1]) == played(usual.games()[1])
    metrics = run.metrics()
    assert [metrics[step]["judge/unscored"] for step in (1, 2)] == [0, 0]
    assert [metrics[step]["game/lost"] for step in (1, 2)] == [0, 0]


def test_a_judge_that_never_returns_stops_the_run_which_then_resumes(
    train: Callable[..., Any], sample_rows: Path, server: Server
) -> None:
    overrides = (f"data_dir={sample_rows}", *SHORT, *remote(server.url))
    server.start()
    stopped = train(*overrides, "judge.max_outage_s=3", "judge.attempts=2")
    stopped.wait_for(
        stopped.folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    )  # of step 1
    server.kill()
    if stopped.wait() == 0:
        pytest.fail("the run ended before its judge was gone")
    assert "The run failed: JudgeLostError: the judge has been out of order for" in stopped.tail()
    assert f"127.0.0.1:{server.port}" in stopped.tail()
    assert "The same command resumes it" in stopped.tail()
    assert sorted(stopped.games()) == [1], "nothing of the step without a judge was trained"

    server.start()
    resumed = train(*overrides)
    assert resumed.wait() == 0, resumed.tail()
    assert sorted(resumed.games()) == [1, 2]
    rows = Counter(
        (game["case_id"], game["game_type"]) for games in resumed.games().values() for game in games
    )
    assert len(rows) == 32
    assert set(rows.values()) == {8}


class FlakyJudge:
    """A server on a real socket that fails in many ways, and remembers whom it answered."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self.faults: Counter[str] = Counter()
        self._rng = random.Random(0)
        self._judge = ReferenceJudge()
        app = FastAPI()
        app.get("/health")(self._health)
        app.post("/judge")(self._answer)
        self.port = free_port()
        config = uvicorn.Config(app, port=self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> FlakyJudge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    async def _health(self) -> dict[str, str]:
        return {
            "status": "healthy",
            "model": "reference",
            "fingerprint": ReferenceJudge.fingerprint,
        }

    async def _answer(self, request: JudgeRequest) -> Response:
        queries = [query.to_query() for query in request.queries]
        verdicts = [one for one in self._judge.judge(queries) if isinstance(one, Verdict)]
        fault = self._rng.choice(["500", "cut", "not json", "missing", "unscored", "order", ""])
        self.faults[fault] += 1
        if fault == "500":
            return Response("out of memory", 500)
        if fault == "not json":
            return Response("<html>Bad gateway</html>", 200)
        unscored = []
        if fault == "missing":
            verdicts = verdicts[::2]
        if fault == "unscored":
            unscored = [UnscoredOut(query_id=one.query_id, reason="odd") for one in verdicts[1::2]]
            verdicts = verdicts[::2]
        if fault == "order":
            verdicts = [*reversed(verdicts), verdicts[0]]
        body = JudgeResponse(
            judge="reference",
            fingerprint=ReferenceJudge.fingerprint,
            verdicts=[VerdictOut.from_verdict(one) for one in verdicts],
            unscored=unscored,
        ).model_dump_json()
        if fault == "cut":
            return Response(body[: len(body) // 2], 200, media_type="application/json")
        self.answered |= {one.query_id for one in verdicts}
        return Response(body, 200, media_type="application/json")


def test_no_game_is_rewarded_from_a_failed_verdict(
    train: Callable[..., Any], sample_rows: Path
) -> None:
    with FlakyJudge() as flaky:
        run = train(
            f"data_dir={sample_rows}",
            *SHORT,
            *remote(f"http://127.0.0.1:{flaky.port}", "judge.max_batch=4", "judge.cache_size=0"),
            "judge.retry_wait_s=0.05",
            "judge.max_unscored=0.9",
        )
        assert run.wait() == 0, run.tail()
    assert len(flaky.faults) == 7, flaky.faults
    cases = read_medec(ROOT / "data" / "sample" / "train.csv", "train")
    clean = {case.case_id: case.clean_sentences for case in cases}
    lost = 0
    for step, games in run.games().items():
        judged = [game for game in games if game["labels"] and game["labels"]["source"] != "gold"]
        for game in judged:
            assert f"{game['uid']}_{game['session']}" in flaky.answered
            wrong = wrong_sentences(clean[game["case_id"]], game["note"])
            assert game["labels"]["error_present"] == bool(wrong)
        metrics = run.metrics()[step]
        assert metrics["game/lost"] == metrics["judge/unscored"] == 128 - len(games)
        assert metrics["judge/asked"] == len(judged) + metrics["judge/unscored"]
        left_out = run.games("unscored_train").get(step, [])
        assert len(left_out) == metrics["judge/unscored"]
        for game in left_out:
            assert "Traceback" not in game["unscored"] and "\x1b" not in game["unscored"]
            assert game["unscored"] and game["labels"] is None
            assert not any(turn["trained"] or turn["reward"] for turn in game["turns"])
            assert (game["uid"], game["session"]) not in {(g["uid"], g["session"]) for g in games}
        lost += len(left_out)
    assert lost > 0


def test_a_random_model_judges_and_the_table_says_that_its_labels_may_be_noise(
    train: Callable[..., Any], sample_rows: Path, tmp_path: Path
) -> None:
    model = tmp_path / "judge"
    make = [sys.executable, "scripts/make_random_judge.py", "--family", "gemma3"]
    subprocess.run([*make, "--output", str(model)], cwd=ROOT, check=True, timeout=120)
    judge = ("judge=transformers", f"judge.model={model}", "judge.device=cpu")
    judge += ("judge.dtype=float32", "judge.min_label_mass=0")
    overrides = (f"data_dir={sample_rows}", *SHORT, "trainer.total_training_steps=1")

    refused = train(*overrides, *judge)
    assert refused.wait() == 1
    assert "judge.allow_uncalibrated=true" in refused.tail()

    run = train(*overrides, *judge, "judge.allow_uncalibrated=true")
    assert run.wait() == 0, run.tail()
    assert "the judge's labels may be noise" in " ".join(run.tail().split())
    metrics = run.metrics()[1]
    assert metrics["judge/unscored"] == 0
    assert 0 < metrics["judge/prefix_cache_hit"] < 1
    judged = [g for g in run.games()[1] if g["labels"] and g["labels"]["source"] != "gold"]
    assert judged
    for game in judged:
        assert game["labels"]["source"] == f"transformers:{model}"
        assert game["labels"]["error_present"] == (game["labels"]["p_error_present"] >= 0.5)
        assert game["labels"]["p_realistic"] is not None
