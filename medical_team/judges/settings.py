"""The settings of each judge: what all share, how a model's labels are decided, each back end's.

A back end has the settings that mean something to it and no other, so that a misplaced one is an
error and not ignored.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """What all judges share.

    Attributes:
        name: the back end.
        max_batch: most games judged at once.
        max_wait_ms: how long the first game of a batch waits for others, in milliseconds.
        concurrency: batches that are judged at the same time by one replica.
        replicas: judges that work side by side behind the one queue, each with a model of its own.
        timeout_s: longest wait for one batch or one request to a server, in seconds; then it is
            asked again.
        max_outage_s: how long games wait for a judge that is out of order, in seconds; then the
            run stops and can be resumed.
        max_unscored: largest share of a step's judged games that may go without a verdict, in
            [0, 1]; beyond it the run stops and can be resumed.
        cache_size: verdicts kept in memory; 0 for none.
        cache_file: SQLite file in which verdicts are kept from one run to the next.
        calibration: file that ``scripts/calibrate_judge.py`` wrote for this judge.
        allow_uncalibrated: train with a judge of which nobody knows how often it errs.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    max_batch: int = 64
    max_wait_ms: float = 5.0
    concurrency: int = 1
    replicas: int = 1
    timeout_s: float = 120.0
    max_outage_s: float = 1800.0
    max_unscored: float = 0.5
    cache_size: int = 100_000
    cache_file: str | None = None
    calibration: str | None = None
    allow_uncalibrated: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        self._at_least("max_batch", 1)
        self._at_least("concurrency", 1)
        self._at_least("replicas", 1)
        self._at_least("max_wait_ms", 0)
        self._at_least("max_outage_s", 0)
        self._at_least("cache_size", 0)
        self._above("timeout_s", 0)
        self._within_unit("max_unscored")
        if not all(map(math.isfinite, (self.timeout_s, self.max_wait_ms, self.max_outage_s))):
            raise ValueError("judge.timeout_s, max_wait_ms and max_outage_s must be finite")

    @property
    def patience_s(self) -> float:
        """Longest wait for a verdict, in seconds: an outage, the queue, and batches in between."""
        return self.max_outage_s + 10 * self.batch_limit_s

    @property
    def batch_limit_s(self) -> float:
        """Longest time for a batch, in seconds, after which the judge counts as out of order."""
        return self.timeout_s

    def _at_least(self, name: str, least: float) -> None:
        if (value := getattr(self, name)) < least:
            raise ValueError(f"judge.{name} is {value}, it must be at least {least}")

    def _above(self, name: str, bound: float) -> None:
        if (value := getattr(self, name)) <= bound:
            raise ValueError(f"judge.{name} is {value}, it must be above {bound}")

    def _within_unit(self, name: str) -> None:
        if not 0 <= (value := getattr(self, name)) <= 1:
            raise ValueError(f"judge.{name} is {value}, it must lie in [0, 1]")

    def _one_of(self, name: str, allowed: tuple[str | None, ...]) -> None:
        if (value := getattr(self, name)) not in allowed:
            known = ", ".join(str(one) for one in allowed)
            raise ValueError(f"judge.{name} is {value!r}, known: {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSettings(JudgeSettings):
    """The embedded judge: no model."""

    name: str = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(JudgeSettings):
    """How a language model's labels are asked for and decided.

    Attributes:
        model: Hugging Face id or folder of the judge model.
        threshold: P(yes) from which the note counts as holding an error, in [0, 1]; ``None`` takes
            the calibration file's, or 0.5 without one. The other labels are decided at 0.5.
        tie_band: width of the band around its threshold in which a label is undecided and the game
            counts as a tie, in [0, 1].
        min_label_mass: least probability of yes and no together, before the answer is constrained,
            in [0, 1]; below it the model wanted to say something else and the game is unscored.
        both_orders: ask a second time with the two notes swapped; disagreement is unscored.
        ask_realistic: ask whether a clinician could have written the note. The zero-sum table does
            not use it.
        reasoning_tokens: most tokens of reasoning before each label; 0 for none.
    """

    model: str = ""
    threshold: float | None = None
    tie_band: float = 0.0
    min_label_mass: float = 0.1
    both_orders: bool = False
    ask_realistic: bool = True
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        JudgeSettings.__post_init__(self)
        if self.threshold is not None:
            self._within_unit("threshold")
        self._within_unit("tie_band")
        self._within_unit("min_label_mass")
        self._at_least("reasoning_tokens", 0)
        if not self.model:
            raise ValueError("judge.model is empty; name a Hugging Face id or a folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModelSettings(ModelSettings):
    """A model in the judge's own process.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N`` as torch names it.
        dtype: of the weights. MedGemma gives empty answers in float16.
        gpu_memory_gb: most GPU memory the judge may take, in GiB; ``None`` for no limit. On the
            training GPU it is what verl's rollout must leave free.
        max_prompt_tokens: longest prompt; a game that needs a longer one is unscored.
    """

    device: str = "cuda"
    dtype: str = "bfloat16"
    gpu_memory_gb: float | None = None
    max_prompt_tokens: int = 8192

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        ModelSettings.__post_init__(self)
        self._one_of("dtype", ("bfloat16", "float32", "float16"))
        if re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"judge.device is {self.device!r}, expected cpu, cuda or cuda:N")
        if self.gpu_memory_gb is not None:
            self._above("gpu_memory_gb", 0)
        self._at_least("max_prompt_tokens", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSettings(LocalModelSettings):
    """A model run by transformers.

    Attributes:
        quantization: ``8bit`` or ``4bit`` (bitsandbytes, GPU only), or ``None``.
        max_batch_tokens: most tokens computed at once, padding included; longer batches are split.
    """

    name: str = "transformers"
    quantization: str | None = None
    max_batch_tokens: int = 32768

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        LocalModelSettings.__post_init__(self)
        self._one_of("quantization", (None, "8bit", "4bit"))
        self._at_least("max_batch_tokens", 1)
        if self.quantization and self.device.startswith("cpu"):
            raise ValueError(f"judge.quantization={self.quantization} needs a GPU, device is cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings(LocalModelSettings):
    """A model run by vLLM's asynchronous engine in the judge's process.

    Attributes:
        tensor_parallel_size: GPUs that share the model.
        max_num_seqs: questions that are computed at once.
    """

    name: str = "vllm"
    tensor_parallel_size: int = 1
    max_num_seqs: int = 256

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        LocalModelSettings.__post_init__(self)
        self._at_least("tensor_parallel_size", 1)
        self._at_least("max_num_seqs", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings(ModelSettings):
    """A model behind one or several OpenAI-compatible servers.

    Attributes:
        urls: base addresses, with ``/v1`` where the server has it; requests are balanced.
        api_key_env: environment variable that holds the key, if the servers want one.
        dialect: what the server understands beyond OpenAI's interface: ``vllm``, ``sglang``,
            ``json_schema`` (response_format) or ``none`` (nothing).
        constrained: hold the answer to the two words even where log-probabilities are read. The
            server then gives them after the constraint, so that ``min_label_mass`` sees nothing.
            Without log-probabilities the answer is always constrained if the dialect can.
        logprobs: whether the server gives log-probabilities; without them there is no P(yes).
        max_connections: requests in flight over all urls.
        attempts: how often a request is tried before its server counts as out of order.
        retry_wait_s: wait before the first retry, in seconds; doubled each time, with jitter.
    """

    name: str = "openai"
    urls: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    dialect: str = "vllm"
    constrained: bool = False
    logprobs: bool = True
    max_connections: int = 64
    attempts: int = 4
    retry_wait_s: float = 0.5

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        ModelSettings.__post_init__(self)
        self._one_of("dialect", ("vllm", "sglang", "json_schema", "none"))
        self._at_least("max_connections", 1)
        self._at_least("attempts", 1)
        self._above("retry_wait_s", 0)
        check_urls(self.urls)

    @property
    def batch_limit_s(self) -> float:
        """Longest time for a batch: its games' questions follow each other, each with its tries."""
        return 10 * self.attempts * self.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class VerlSettings(OpenAISettings):
    """A model that verl itself serves in a resource pool of its own (``reward.reward_model``).

    verl tells the reward manager the address of its router; it need not be set.
    """

    name: str = "verl"
    urls: tuple[str, ...] = ("http://reward-router.invalid/v1",)  # replaced when verl tells it
    api_key_env: str = ""  # verl's router wants none, and no key may go there in the clear


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings(JudgeSettings):
    """This project's own server, ``scripts/serve_medical_judge.py``.

    Attributes:
        urls: addresses of the servers; requests are balanced.
        api_key_env: environment variable that holds the key, if the servers want one.
        max_connections: requests in flight over all urls.
        attempts: how often a request is tried before its server counts as out of order.
        retry_wait_s: wait before the first retry, in seconds; doubled each time, with jitter.
    """

    name: str = "remote"
    urls: tuple[str, ...] = ()
    api_key_env: str = "MEDICAL_JUDGE_API_KEY"
    max_connections: int = 16
    attempts: int = 4
    retry_wait_s: float = 0.5

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        JudgeSettings.__post_init__(self)
        self._at_least("max_connections", 1)
        self._at_least("attempts", 1)
        self._above("retry_wait_s", 0)
        check_urls(self.urls)

    @property
    def batch_limit_s(self) -> float:
        """Longest time for a batch, which is tried several times, and in halves if too large."""
        return 10 * self.attempts * self.timeout_s


def check_urls(urls: tuple[str, ...]) -> None:
    """Checks server addresses.

    Raises:
        ValueError: if there are none, or one is no http address.
    """
    if not urls:
        raise ValueError("judge.urls is empty; give at least one, as judge.urls=[http://HOST:PORT]")
    for url in urls:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # of a port that is no number, or too large
            known = False
        if not known:
            raise ValueError(f"judge.urls holds {url!r}, expected http://HOST:PORT or https://...")
