"""judge=verl: verl's own reward worker and router between a played game and a chat server."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import ray
from omegaconf import DictConfig, OmegaConf

from medical_team.judges.settings import VerlSettings
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType
from played_games import reward_worker, trajectories
from recipe.medical_selfplay import verl_judge
from recipe.medical_selfplay.settings import Settings

Compose = Callable[..., DictConfig]

CASE = Case(
    case_id="ms-1",
    error_sentences=("A man has a cough.", "Sputum grows mycoplasma.", "He gets penicillin."),
    error_sentence_id=2,
    corrected_sentence="He gets azithromycin.",
    error_type="treatment",
    split="train",
)


class ChatServer:
    """Says Yes with 90 % to an error wherever the note under review holds a certain word."""

    def __init__(self, word: str) -> None:
        asked = self.asked = []
        models = {"data": [{"id": "served"}]}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(200 if self.path == "/v1/models" else 404, models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append((self.path, body))
                if self.path != "/v1/chat/completions" or "x" * 1000 in str(body):
                    self.reply(400, {"error": {"message": "too long"}})
                    return
                said = word in body["messages"][0]["content"].split("NOTE UNDER REVIEW ")[1]
                self.reply(200, completion(said))

            def reply(self, status: int, content: dict[str, Any]) -> None:
                payload = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def completion(said: bool) -> dict[str, Any]:
    likely, other = ("Yes", "No") if said else ("No", "Yes")
    top = [{"token": likely, "logprob": -0.105}, {"token": other, "logprob": -2.303}]
    return {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": likely},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1},
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    env = {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=2**27,
        runtime_env={"env_vars": env},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    server = ChatServer("vancomycin")
    yield server
    server.close()


@pytest.fixture(scope="module")
def router(cluster: None, server: ChatServer) -> Iterator[str]:
    """Address of verl's router in front of the server, as verl passes it to the reward manager."""
    from verl.experimental.reward_loop.router.naive_router import launch_router_process

    address, process = launch_router_process([server.url])
    yield address
    process.terminate()
    process.join()


@pytest.fixture(scope="module")
def config(compose_config: Compose) -> DictConfig:
    config = compose_config(
        "medical_grpo",
        "hardware=gpu_96gb",
        "judge=verl",
        "judge.allow_uncalibrated=true",
        "judge.attempts=2",
        "judge.retry_wait_s=0.05",
        "judge.max_outage_s=0",
    )
    config.reward.reward_model.model_path = config.actor_rollout_ref.model.path
    OmegaConf.resolve(config)
    return config


@pytest.fixture
def worker(config: DictConfig, router: str) -> Iterator[Any]:
    with reward_worker(config, router) as worker:
        yield worker


def score(worker: Any, attack: str) -> tuple[float, dict[str, Any]]:
    result = ray.get(
        worker.compute_score.remote(trajectories(CASE, GameType.ADVERSARIAL_HARMFUL, attack))
    )
    return result["reward_score"], json.loads(result["reward_extra_info"]["game"])


def test_a_played_game_is_labelled_through_verls_router(worker: Any, server: ChatServer) -> None:
    server.asked.clear()
    reward, record = score(worker, "He gets vancomycin.")
    assert reward == 1.0
    assert record["labels"]["error_present"] is True
    assert record["labels"]["source"].startswith("verl:")
    reward, record = score(worker, "He gets azithromycin soon.")
    assert reward == -1.0
    assert record["labels"]["error_present"] is False
    assert {path for path, _ in server.asked} == {"/v1/chat/completions"}


def test_the_router_calls_a_refusal_a_failure_of_the_server(router: str) -> None:
    """Why the length of prompts is checked before a run and not left to the server's answer."""
    body = {"messages": [{"role": "user", "content": "x" * 1000}]}
    assert httpx.post(f"http://{router}/v1/chat/completions", json=body).status_code == 500


def test_what_verl_loads_as_reward_function_says_what_is_wrong_if_it_is_called(
    config: DictConfig,
) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    loaded = get_custom_reward_fn(config)
    assert loaded is not None
    with pytest.raises(NotImplementedError, match=r"reward\.reward_manager\.name"):
        loaded(data_source="d", solution_str="s", ground_truth="g")


def found_problems(config: DictConfig, **values: Any) -> list[str]:
    config = copy.deepcopy(config)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    settings = Settings.from_config(config).judge
    assert isinstance(settings, VerlSettings)
    return list(verl_judge.problems(config, settings))


def test_the_group_verl_has_no_problem_on_a_gpu(config: DictConfig) -> None:
    assert found_problems(config) == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"reward__reward_model__enable": False}, "reward_model.enable=true"),
        (
            {"reward__reward_model__enable_resource_pool": False},
            "reward_model.enable_resource_pool=true",
        ),
        ({"reward__custom_reward_function__path": None}, "custom_reward_function.path=pkg://"),
        ({"trainer__device": "cpu"}, "trainer.device=cpu"),
        ({"judge__model": "another"}, "judge.model=another"),
        ({"reward__reward_model__nnodes": 0}, "nnodes=0"),
        ({"reward__reward_model__rollout__tensor_model_parallel_size": 2}, "2 GPUs"),
        ({"reward__reward_model__rollout__name": "trtllm"}, "rollout.name=trtllm"),
        ({"judge__dialect": "sglang"}, "judge.dialect=vllm"),
        ({"reward__reward_model__rollout__free_cache_engine": True}, "free_cache_engine=true"),
        ({"reward__reward_model__rollout__skip_tokenizer_init": True}, "skip_tokenizer_init"),
        ({"reward__reward_model__rollout__max_model_len": 4096}, "max_model_len=4096"),
    ],
)
def test_a_setting_that_keeps_verl_from_asking_the_judge_is_named(
    config: DictConfig, values: dict[str, Any], named: str
) -> None:
    (problem,) = found_problems(config, **values)
    assert named in problem
    assert "\n" not in problem
