"""verl's rollout back end for the CPU: a Ray actor around :class:`ContinuousBatch`.

Registered as verl's docs/extend_guide.rst describes, under the name ``hf_cpu``. Only what the V1
trainers call is there: generation, weight updates, and the abort and resume of partial rollouts
(``trainer_mode=colocate_async``).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from recipe.medical_selfplay.cpu.decoder import ContinuousBatch, Request

NAME = "hf_cpu"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class CpuRolloutServer:
    """Owns the model and decodes in a thread of its own.

    Args:
        model_path: folder of the Hugging Face model.
        max_num_seqs: most requests in the running batch.
        max_model_len: longest prompt plus response, in tokens.
        dtype: ``float32`` or ``float64``. In float32 the batch that a request happens to be in
            moves its logits by some 1e-6, and now and then another token is drawn; in float64 a
            seeded run repeats.
    """

    def __init__(
        self, model_path: str, max_num_seqs: int, max_model_len: int, dtype: str = "float32"
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        # One decoding step of a small model is too short to share out among threads.
        torch.set_num_threads(1)
        config = AutoConfig.from_pretrained(model_path)
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._model = AutoModelForCausalLM.from_pretrained(
            model_path, config=config, dtype=_DTYPES[dtype], attn_implementation="sdpa"
        ).eval()
        eos = GenerationConfig.from_model_config(config).eos_token_id
        eos_ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._batch = ContinuousBatch(self._model, sorted(eos_ids), pad)
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._global_steps = 0
        self._waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[tuple[Callable[[], None], _Waiter]] = queue.SimpleQueue()
        self._work = threading.Event()
        self._waiters: dict[Request, _Waiter] = {}
        self._admitting = asyncio.Event()
        self._admitting.set()
        threading.Thread(target=self._decode, daemon=True).start()

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: None = None,
        video_data: None = None,
    ) -> TokenOutput:
        """Continues one prompt.

        Args:
            prompt_ids: the prompt's token ids.
            sampling_params: temperature, top_p, top_k, max_tokens, seed, ignore_eos and logprobs,
                as vLLM names them.
            request_id: not used, part of verl's call.
            image_data: must be ``None``.
            video_data: must be ``None``.

        Returns:
            The token ids with their log-probabilities; ``stop_reason`` is ``aborted`` if the
            trainer interrupted it.

        Raises:
            ValueError: if the prompt leaves no room for a response.
        """
        room = self._max_model_len - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"a prompt of {len(prompt_ids)} tokens leaves no room in"
                f" max_model_len={self._max_model_len}; raise data.max_prompt_length or leave long"
                " notes out (data.filter_overlong_prompts=true)"
            )
        await self._admitting.wait()
        request = Request(
            prompt_ids=list(prompt_ids),
            max_tokens=min(int(sampling_params.get("max_tokens") or room), room),
            temperature=float(sampling_params.get("temperature", 1.0)),
            top_p=float(sampling_params.get("top_p", 1.0)),
            top_k=int(sampling_params.get("top_k", -1)),
            seed=sampling_params.get("seed"),
            ignore_eos=bool(sampling_params.get("ignore_eos", False)),
        )
        version = self._global_steps
        waiter = self._waiters[request] = _Waiter()
        self._waiting.put(request)
        self._work.set()
        await waiter.wait()
        return TokenOutput(
            token_ids=request.token_ids,
            log_probs=request.log_probs if sampling_params.get("logprobs") else None,
            stop_reason="aborted" if request.aborted else "completed",
            extra_fields={"global_steps": version},
        )

    async def update_weights(
        self, state: dict[str, torch.Tensor], global_steps: int | None
    ) -> None:
        """Loads new weights between two decoding steps.

        Args:
            state: the full state dict.
            global_steps: the trainer's step these weights belong to.

        Raises:
            ValueError: if a weight is unknown or missing.
        """

        def load() -> None:
            missing, unexpected = self._model.load_state_dict(state, strict=False)
            absent = set(missing) - set(self._model._tied_weights_keys or ())
            if unexpected or absent:
                raise ValueError(
                    f"weights do not fit: missing {sorted(absent)}, unknown {sorted(unexpected)}"
                )

        await self._between_steps(load)
        if global_steps is not None:
            self._global_steps = global_steps

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Returns running requests as they are; holds new ones until :meth:`resume_generation`."""
        self._admitting.clear()

        def abort() -> None:
            aborted = self._batch.abort()
            while not self._waiting.empty():
                request = self._waiting.get()
                request.aborted = True
                aborted.append(request)
            self._finish(aborted)

        await self._between_steps(abort)

    async def resume_generation(self) -> None:
        """Lets requests in again."""
        self._admitting.set()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing was put to sleep: host memory is not shared with the trainer."""

    async def sleep(self) -> None:
        """Nothing to free: host memory is not shared with the trainer."""

    async def clear_kv_cache(self) -> None:
        """No cache outlives its request."""

    release_kv_cache = resume_kv_cache = clear_kv_cache

    async def start_profile(self, **kwargs: Any) -> None:
        """No profiler."""

    stop_profile = start_profile

    async def _between_steps(self, command: Callable[[], None]) -> None:
        """Runs a command in the decoding thread, which owns the model."""
        waiter = _Waiter()
        self._commands.put((command, waiter))
        self._work.set()
        await waiter.wait()

    def _decode(self) -> None:
        while True:
            if not len(self._batch):
                self._work.wait()
                self._work.clear()
            while not self._commands.empty():
                command, waiter = self._commands.get()
                waiter.resolve(_failure_of(command))
            try:
                self._finish([*self._batch.add(self._admit()), *self._batch.step()])
            except Exception as error:  # every caller must learn of it; none may wait for ever
                for request in list(self._waiters):
                    self._waiters.pop(request).resolve(error)
                self._batch.abort()

    def _admit(self) -> list[Request]:
        admitted: list[Request] = []
        while len(self._batch) + len(admitted) < self._max_num_seqs and not self._waiting.empty():
            admitted.append(self._waiting.get())
        return admitted

    def _finish(self, requests: list[Request]) -> None:
        for request in requests:
            self._waiters.pop(request).resolve(None)


class _Waiter:
    """A future of the actor's event loop that another thread resolves."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self) -> None:
        await self._future

    def resolve(self, error: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._set, error)

    def _set(self, error: BaseException | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)


def _failure_of(command: Callable[[], None]) -> BaseException | None:
    try:
        command()
    except Exception as error:  # handed to the caller, who awaits the command
        return error
    return None


class CpuRolloutReplica(RolloutReplica):
    """One server per data-parallel rank."""

    async def launch_servers(self) -> None:
        """Starts the server actor beside the trainer's worker."""
        name = server_name(self.replica_rank)
        config, model = self.config, self.model_config
        server = (
            ray.remote(CpuRolloutServer)
            .options(name=name, num_cpus=0, max_concurrency=self.max_concurrency)
            .remote(
                model_path=model.path,
                max_num_seqs=config.max_num_seqs,
                max_model_len=config.max_model_len or config.prompt_length + config.response_length,
                dtype=config.dtype,
            )
        )
        self.servers = [server]
        self._server_handle, self._server_address = server, name


class CpuRolloutAdapter(BaseRollout):
    """The trainer's side: sends the actor's weights to the server of its rank."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._server: ray.actor.ActorHandle | None = None

    async def resume(self, tags: list[str]) -> None:
        """The server keeps its memory."""

    async def release(self) -> None:
        """The server keeps its memory."""

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Sends the full weights.

        Raises:
            ValueError: for any other wire format than ``named_tensors``.
        """
        if wire_format != "named_tensors":
            raise ValueError(f"rollout {NAME} takes wire_format named_tensors, got {wire_format}")
        if self._server is None:
            self._server = ray.get_actor(server_name(torch.distributed.get_rank()))
        state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}
        await self._server.update_weights.remote(state, global_steps)


def server_name(rank: int) -> str:
    """Name of the Ray actor that serves a data-parallel rank."""
    return f"{NAME}_server_{rank}"
