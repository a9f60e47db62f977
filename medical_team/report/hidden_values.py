"""What of a configuration may be passed on: a report is sent more readily than a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "(hidden)"

# Read in the key without its separators, so that camel case and snake case are the same.
_SECRET: Final = (
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
)
# Whole last words of a key.
_SECRET_WORDS: Final = frozenset({"pass", "pwd", "auth"})
# The last word of a key that ends in ``token``; what stands before it in a tokenizer's names.
_SPECIAL: Final = frozenset({"pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "video"})
# Keys that name the environment variable with the secret in it.
_NAMED: Final = "_env"

# Mappings from an environment variable to its value. Any of them may be a secret, so that only
# those are shown of which it is known that they are none.
_ENVIRONMENTS: Final = frozenset({"env", "env_vars", "env_set", "environment"})
_HARMLESS: Final = re.compile(
    r"(OMP|MKL|OPENBLAS|NUMEXPR|TQ)_[A-Z_]+|TOKENIZERS_PARALLELISM|PYTHON(HASHSEED|UNBUFFERED)"
    r"|(HF_HUB|HF_DATASETS|TRANSFORMERS)_OFFLINE|VERL_PLATFORM|CUDA_[A-Z_]+|NCCL_[A-Z_]+"
    r"|CUBLAS_WORKSPACE_CONFIG|PYTORCH_[A-Z_]*ALLOC_CONF"
    r"|VLLM_(LOGGING_LEVEL|USE_V1|ATTENTION_BACKEND|WORKER_MULTIPROC_METHOD)"
    r"|(VERL|RAY)_[A-Z_]*(LEVEL|DEDUP_LOGS)"
)
_USER: Final = re.compile(r"(?<=://)[^/\s?#]*@")
# An override, KEY=VALUE, and an option of a command, --KEY VALUE, as text.
_ASSIGNED: Final = re.compile(r"(?<!\S)([+\-]*([A-Za-z][\w.\-]*)=)(\S+)")
_OPTION: Final = re.compile(r"(?<!\S)(--?([A-Za-z][\w\-]*)\s+)([^\s\-]\S*)")
_PARAMETER: Final = re.compile(r"([?&][^=&\s]*(?:key|token|secret|password|sig)[^=&\s]*=)[^&\s#]+")


def without_secrets(value: Any, key: str = "", hidden: bool = False) -> Any:
    """The configuration without what could open a door.

    Args:
        value: any part of it.
        key: the name that it stands under.
        hidden: whether everything in it is a secret.

    Returns:
        The same, with the values hidden of every key that names a secret and of every environment
        variable not known to be harmless, and without users and secrets in addresses.
    """
    hidden = hidden or _is_secret(key)
    if isinstance(value, Mapping):
        environment = key.lower() in _ENVIRONMENTS
        return {
            name: without_secrets(
                item,
                str(name),
                hidden or (environment and _HARMLESS.fullmatch(str(name)) is None),
            )
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item, key, hidden) for item in value]
    if hidden and value not in (None, "") and not isinstance(value, bool):
        return HIDDEN
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    def named(match: re.Match[str]) -> str:
        return match[1] + HIDDEN if _is_secret(match[2]) else match[0]

    shown = _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub("", value))
    return _OPTION.sub(named, _ASSIGNED.sub(named, shown))


def _is_secret(key: str) -> bool:
    words = [word for word in re.split(r"[^a-z0-9]+", _separated(key).lower()) if word]
    if key.lower().endswith(_NAMED):
        return False
    if any(name in "".join(words) for name in _SECRET):
        return True
    if words and words[-1] in _SECRET_WORDS:
        return True
    return words[-1:] == ["token"] and (len(words) < 2 or words[-2] not in _SPECIAL)


def _separated(key: str) -> str:
    """``clientSecret`` as ``client_Secret``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
