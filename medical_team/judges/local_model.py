"""Loading of a judge model into this process, with an error that says what to do if it fails."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_team.judges.packing import FULL, SLIDING
from medical_team.medical_judge import JudgeError

if TYPE_CHECKING:
    from medical_team.judges.settings import TransformersSettings

_GIB = 2**30
_SAMPLE = 2**20
# Scales of the logits that are not part of the output layer; what reads hidden states misses them.
_LOGIT_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")


def load(settings: TransformersSettings) -> tuple[Any, Any]:
    """Loads tokenizer and model.

    Args:
        settings: which, in what precision and where.

    Returns:
        The tokenizer and the model, ready to compute.

    Raises:
        JudgeError: if they cannot be loaded or cannot judge, with what to do about it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = _device(settings)
    try:
        # Fetching a model is a step of its own (setup_env.sh --download-model), never a surprise.
        local: dict[str, Any] = {"local_files_only": True}
        config = AutoConfig.from_pretrained(settings.model, **local)
        check_precision(config, settings.dtype)
        tokenizer = AutoTokenizer.from_pretrained(settings.model, **local)
        text = config.get_text_config()
        soft_capped = getattr(text, "attn_logit_softcapping", None) is not None
        options: dict[str, Any] = {
            "dtype": getattr(torch, settings.dtype),
            # sdpa cannot cap scores.
            "attn_implementation": "eager" if soft_capped else "sdpa",
        }
        if settings.quantization:
            options["quantization_config"] = _quantization(settings)
            options["device_map"] = {"": device}
        model = AutoModelForCausalLM.from_pretrained(settings.model, **local, **options)
    except (OSError, ValueError) as error:
        raise JudgeError(_why_not_loaded(settings.model, error)) from error
    check_layers(model)
    if not settings.quantization:
        model = model.to(device)
    return tokenizer, model.eval().requires_grad_(False)


def check_precision(config: Any, dtype: str) -> None:
    """Refuses a precision in which a model is known to fail.

    Args:
        config: the model's configuration.
        dtype: of the weights.

    Raises:
        JudgeError: for a Gemma model in float16.
    """
    if dtype == "float16" and config.model_type.startswith("gemma"):
        raise JudgeError(
            f"judge.dtype is float16, in which {config.model_type} models overflow and give empty"
            " answers; set judge.dtype=bfloat16"
        )


def check_layers(model: Any) -> None:
    """Refuses a model whose questions cannot be packed into one row.

    Raises:
        JudgeError: if it has layers other than full and sliding attention, shares keys between
            layers, or scales its logits beside the output layer.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [FULL])
    why = None
    if not kinds <= {FULL, SLIDING}:
        why = f"layers of the kinds {', '.join(sorted(kinds - {FULL, SLIDING}))}"
    elif getattr(config, "num_kv_shared_layers", 0):
        why = "layers that share keys"
    elif not getattr(model, "_supports_attention_backend", False):
        why = "attention of its own that takes no mask"
    else:
        scales = [name for name in _LOGIT_SCALES if getattr(config, name, None) not in (None, 1)]
        if scales:
            why = f"scaled logits ({scales[0]})"
    if why:
        raise JudgeError(
            f"{config.model_type} models have {why}, which judge=transformers does not handle;"
            " use judge=vllm, or judge=openai with a server"
        )


def revision_of(model: str) -> str:
    """Names the weights: the commit on the hub, or a digest of the folder's files.

    Of a weight file only its size and three samples are read, so that it takes no time.

    Args:
        model: Hugging Face id or folder.
    """
    folder = Path(model)
    if not folder.is_dir():
        from transformers import AutoConfig

        return (
            getattr(AutoConfig.from_pretrained(model, local_files_only=True), "_commit_hash", None)
            or ""
        )
    digest = blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".safetensors", ".bin", ".json", ".jinja", ".gguf"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as stream:
            for start in sorted({0, max(0, size // 2), max(0, size - _SAMPLE)}):
                stream.seek(start)
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def _device(settings: TransformersSettings) -> str:
    import torch

    if not settings.device.startswith("cuda"):
        return settings.device
    if not torch.cuda.is_available():
        raise JudgeError(
            f"judge.device is {settings.device}, but torch sees no GPU; set judge.device=cpu"
        )
    if settings.gpu_memory_gb is not None:
        total = torch.cuda.get_device_properties(settings.device).total_memory / _GIB
        if settings.gpu_memory_gb > total:
            raise JudgeError(
                f"judge.gpu_memory_gb is {settings.gpu_memory_gb}, {settings.device} has"
                f" {total:.0f} GiB in all"
            )
        fraction = settings.gpu_memory_gb / total
        torch.cuda.set_per_process_memory_fraction(fraction, settings.device)
    return settings.device


def _quantization(settings: TransformersSettings) -> Any:
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise JudgeError(
            f"judge.quantization={settings.quantization} needs bitsandbytes, which is not"
            " installed: pip install bitsandbytes"
        )
    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )


def _why_not_loaded(model: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:200]
    if Path(model).exists() or model.startswith(("/", "./", "../", "~")):
        return (
            f"judge.model={model}: cannot be loaded ({reason}); expected a folder with config.json,"
            " tokenizer.json and weights as safetensors"
        )
    gated = ""
    if "gemma" in model.lower():
        gated = (
            f" It is gated: accept the licence on https://huggingface.co/{model} and set HF_TOKEN"
            " before."
        )
    return (
        f"judge.model={model}: not on this machine or not readable ({reason}). Fetch it with"
        f" ./setup_env.sh --download-model {model}.{gated}"
    )
