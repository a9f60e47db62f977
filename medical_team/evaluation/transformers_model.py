"""A model in this process, run by transformers in batches of prompts of about the same length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medical_team.evaluation.errors import EvaluationError, GenerationError
from medical_team.evaluation.generation import Decoding, Reply
from medical_team.evaluation.model_folder import of_a_run
from medical_team.judges.local_model import revision_of
from medical_team.prompts import Message, opens_reasoning, prompt_text


class TransformersGenerator:
    """Answers prompts with ``generate``; a :class:`~medical_team.evaluation.generation.Generator`.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        decoding: how responses are decoded.
        identity: what decides the answers.
        think_opened: whether prompts end in ``<think>``.
        batch_size: prompts that are answered together.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        decoding: Decoding,
        *,
        identity: Mapping[str, str],
        think_opened: bool,
        batch_size: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._decoding = decoding
        self._think_opened = think_opened
        self._batch_size = batch_size
        self.identity = identity
        self._ends = end_tokens(model.generation_config.eos_token_id, tokenizer)
        # generate() fills unset values from the model's folder: Qwen2.5's would add a repetition
        # penalty, which training does not.
        model.generation_config = type(model.generation_config)()
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def generate(self, prompts: Mapping[str, Sequence[Message]]) -> Iterator[tuple[str, Reply]]:
        """Answers prompts; see :class:`~medical_team.evaluation.generation.Generator`."""
        encoded: dict[str, list[int]] = {}
        opened = False
        for key, messages in prompts.items():
            ids, opened = encode(self._tokenizer, messages, think_opened=self._think_opened)
            if refusal := too_long(len(ids), self._decoding.max_tokens, self._context):
                yield key, Reply("", refusal=refusal)
            else:
                encoded[key] = ids
        # Longest first, so that memory runs out at once or never.
        keys = sorted(encoded, key=lambda key: len(encoded[key]), reverse=True)
        for start in range(0, len(keys), self._batch_size):
            batch = keys[start : start + self._batch_size]
            for key, ids in zip(batch, self._continued([encoded[k] for k in batch]), strict=True):
                yield key, reply(ids, self._ends, self._tokenizer, opened)

    def close(self) -> None:
        """Gives the model's memory back."""
        self._model = None

    def _continued(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        decoding, length = self._decoding, max(map(len, prompts))
        pads = [length - len(ids) for ids in prompts]
        filler = min(self._ends)
        # On the left, so that every response begins where its prompt ends.
        ids = [[filler] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
        seen = [[0] * pad + [1] * (length - pad) for pad in pads]
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
        device = self._model.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            # By the prompts, so that a run that was stopped and goes on draws afresh.
            torch.manual_seed(_seed(decoding.seed, prompts))
            try:
                output = self._model.generate(
                    input_ids=torch.tensor(ids, device=device),
                    attention_mask=torch.tensor(seen, device=device),
                    generation_config=GenerationConfig(
                        max_new_tokens=decoding.max_tokens,
                        num_beams=1,
                        eos_token_id=sorted(self._ends),
                        pad_token_id=filler,
                        **sampling,
                    ),
                )
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                raise GenerationError(
                    f"out of memory with {len(prompts)} prompts of up to {length} tokens on"
                    f" {device}; take a smaller --batch-size or --max-tokens, or another --device"
                ) from error
        return [list(row) for row in output[:, length:].tolist()]


def load_transformers(
    model: str,
    decoding: Decoding,
    *,
    think_opened: bool = True,
    batch_size: int = 32,
    device: str = "auto",
    dtype: str = "auto",
) -> TransformersGenerator:
    """Loads a model into this process; nothing is fetched from a hub.

    Args:
        model: a folder, or a Hugging Face id whose files are on this machine.
        decoding: how responses are decoded.
        think_opened: whether prompts end in ``<think>``.
        batch_size: prompts that are answered together.
        device: as torch names it; ``auto`` is the GPU where there is one.
        dtype: of the weights; ``auto`` is float32 on the CPU and the model's own on a GPU.

    Raises:
        EvaluationError: if it cannot be loaded, with what to do about it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    tokenizer = load_tokenizer(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, local_files_only=True, dtype=dtype)
    except Exception as error:  # damaged files raise whatever their readers raise
        raise EvaluationError(_why_not_loaded(model, error)) from error
    try:
        loaded = loaded.to(device).eval().requires_grad_(False)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA asserts
        fix = "choose a smaller model" if _out_of_memory(error) else "cpu always works"
        raise EvaluationError(
            f"--device {device}: the model cannot be put there ({_reason(error)}); {fix}"
        ) from error
    return TransformersGenerator(
        loaded,
        tokenizer,
        decoding,
        identity=identity_of(model, "transformers", str(loaded.dtype).removeprefix("torch.")),
        think_opened=think_opened,
        batch_size=batch_size,
    )


def load_tokenizer(model: str) -> Any:
    """A model's tokenizer.

    Raises:
        EvaluationError: if it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception as error:  # a damaged tokenizer.json raises whatever its reader raises
        raise EvaluationError(_why_not_loaded(model, error)) from error
    if not tokenizer.chat_template:
        raise EvaluationError(
            f"--model {model}: its tokenizer has no chat template; take an instruction-tuned model,"
            " or put chat_template.jinja into its folder"
        )
    return tokenizer


def identity_of(model: str, backend: str, dtype: str) -> dict[str, str]:
    """What decides a local model's answers."""
    return {
        "backend": backend,
        "model": Path(model).name,
        "revision": revision_of(model),
        "dtype": dtype,
    }


def encode(
    tokenizer: Any, messages: Sequence[Message], *, think_opened: bool
) -> tuple[list[int], bool]:
    """A prompt's token ids as in training, and whether it opens ``<think>``.

    Raises:
        EvaluationError: if the tokenizer's chat template cannot write it.
    """
    try:
        text = prompt_text(tokenizer, messages, think_opened=think_opened)
    except Exception as error:  # a template is a program of somebody else's
        raise EvaluationError(
            f"--model {tokenizer.name_or_path}: its chat template cannot write the prompt"
            f" ({type(error).__name__}: {_reason(error)}); correct its chat_template.jinja"
        ) from error
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids), opens_reasoning(text)


def end_tokens(configured: int | list[int] | None, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response: the model's and its tokenizer's."""
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset({*ends, tokenizer.eos_token_id} - {None})


def too_long(prompt: int, response: int, context: int | None) -> str | None:
    """Why a prompt and its response do not fit the model's context, ``None`` if they do."""
    if context is None or prompt + response <= context:
        return None
    return (
        f"the prompt has {prompt} tokens and the response may have {response}, the model reads"
        f" {context}"
    )


def reply(ids: Sequence[int], ends: frozenset[int], tokenizer: Any, think_opened: bool) -> Reply:
    """A response from its token ids, which may go on behind its end."""
    ended = next((i for i, token in enumerate(ids) if token in ends), None)
    text = tokenizer.decode(list(ids[:ended]), skip_special_tokens=False)
    length = len(ids) if ended is None else ended + 1
    return Reply(text, think_opened, ended is None, length)


def _seed(seed: int, prompts: Sequence[list[int]]) -> int:
    digest = hashlib.blake2b(repr((seed, prompts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest)


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError of its allocator.
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "t allocate memory" in said


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _why_not_loaded(model: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {_reason(error)}"
    if model.startswith(("/", "./", "../", "~")) and not Path(model).exists():
        return f"--model {model}: no such folder; check the path"
    if of_a_run(Path(model)):
        return (
            f"--model {model}: cannot be loaded ({reason}). A run or its checkpoint becomes a"
            f" model's folder by scripts/export_model.py {model} --output DIR"
        )
    if Path(model).exists():
        return (
            f"--model {model}: cannot be loaded ({reason}); expected a folder with config.json,"
            " tokenizer.json and weights as safetensors"
        )
    return (
        f"--model {model}: no such folder, and no model of that name on this machine ({reason})."
        f" Fetch it with ./setup_env.sh --download-model {model}"
    )
