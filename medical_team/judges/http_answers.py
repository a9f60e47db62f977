"""What an HTTP answer means for the request: JSON, a failure that may pass, one that will not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from medical_team.medical_judge import JudgeError

# A server may ask for no longer pause than this, in seconds.
LONGEST_PAUSE_S = 60.0
# The server is well and asks for patience: request timeout, too early, too many requests.
_PATIENCE = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class SettingNames:
    """What the user calls the settings that a message tells to check."""

    urls: str = "judge.urls"
    model: str = "judge.model"
    timeout_s: str = "judge.timeout_s"


JUDGE_NAMES = SettingNames()


class RefusedError(JudgeError):
    """A request that the server refuses, and would refuse again.

    Args:
        message: what happened and what to do about it.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(RefusedError):
    """A request that the server finds too large (413)."""


class PassingError(Exception):
    """A failure after which the same request may succeed.

    Args:
        url: the server.
        reason: what happened.
        wait_s: the pause that the server asked for, in seconds.
        alive: whether the server is well and only asks for patience.
        fix: what to do about it.
        status: the HTTP status, ``None`` where no answer came.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        wait_s: float = 0.0,
        *,
        alive: bool = False,
        fix: str = f"Check that the server runs at that address ({JUDGE_NAMES.urls})",
        status: int | None = None,
    ) -> None:
        super().__init__(f"{url}: {reason}")
        self.reason = reason
        self.wait_s = wait_s
        self.alive = alive
        self.fix = fix
        self.status = status


def json_of(
    response: httpx.Response, url: str, api_key_env: str, names: SettingNames = JUDGE_NAMES
) -> Any:
    """The JSON body of an answer.

    Args:
        response: the answer, read to its end.
        url: the server's base address, for messages.
        api_key_env: environment variable that the key comes from, for messages.
        names: of the settings, for messages.

    Raises:
        PassingError: at 408, 425, 429 and 5xx, and if the body is not JSON: what a proxy or a
            server that goes down cuts short comes whole the next time.
        TooLargeError: at 413.
        RefusedError: at any other status that is not 2xx.
    """
    status = response.status_code
    if response.is_success:
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            found = _excerpt(response) or "nothing"
            raise PassingError(url, f"expected a JSON body, found {found}") from None
    said = " ".join(filter(None, (str(status), response.reason_phrase, _excerpt(response))))
    if status in _PATIENCE or status >= 500:
        wait_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
        fix = "It is there: wait until it is ready, or see its log"
        raise PassingError(url, said, wait_s, alive=status in _PATIENCE, fix=fix, status=status)
    message = f"{response.request.method} {response.request.url} was refused: {said}"
    if status == 413:
        raise TooLargeError(message, status)
    raise RefusedError(message + _fix(response, api_key_env, names), status)


def retry_after_s(header: str | None, now: datetime) -> float:
    """The pause that a ``Retry-After`` header asks for, in seconds, at most ``LONGEST_PAUSE_S``.

    It holds seconds or a date (RFC 9110, section 10.2.3); anything else asks for none.
    """
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_PAUSE_S) if math.isfinite(seconds) else 0.0


def _fix(response: httpx.Response, api_key_env: str, names: SettingNames) -> str:
    if response.status_code in (401, 403):
        return f". The environment variable {api_key_env} must hold a key that the server takes"
    if response.status_code == 404:
        return f". Check {names.urls} and {names.model}"
    if response.is_redirect:
        return f". Give the address that it points to, {response.headers.get('Location')}"
    return ""


def _excerpt(response: httpx.Response) -> str:
    line = " ".join(response.text[:400].split())
    return repr(line[:200]) if line else ""
