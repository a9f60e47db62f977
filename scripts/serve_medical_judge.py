"""Serves a medical judge over HTTP; `GET /docs` describes the interface.

It listens on this machine only, unless --host says otherwise and MEDICAL_JUDGE_API_KEY holds a
secret. SIGTERM or Ctrl-C lets it finish what it accepted; a second one ends it at once.
"""

from __future__ import annotations

import argparse
import sys

from medical_team.judge_server.limits import Limits, ServerError
from medical_team.judge_server.process import read_settings, serve
from medical_team.judges import BACK_ENDS

# verl starts the model of its own back end, and a server of a server would only add a hop.
_SERVED = sorted(BACK_ENDS.keys() - {"verl", "remote"})


def main() -> int:
    """Runs the command."""
    default = Limits()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", help="Hugging Face id or folder of the judge model")
    add("--backend", choices=_SERVED, default="transformers")
    add("--device", help="cpu, cuda or cuda:N (default: cuda)")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--max-batch", type=int, metavar="N", help="most games judged at once")
    add("--max-request-bytes", type=int, metavar="N", default=default.max_request_bytes)
    add("--max-held-bytes", type=int, metavar="N", default=default.max_held_bytes)
    add("--max-queue", type=int, metavar="N", default=default.max_queue, help="queries")
    add("--body-timeout", type=float, metavar="SECONDS", default=default.body_timeout_s)
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of the judge, such as threshold=0.7 (may be repeated)",
    )
    asked = parser.parse_args()
    values = {"model": asked.model, "device": asked.device, "max_batch": asked.max_batch}
    try:
        settings = read_settings(asked.backend, values, asked.set)
        limits = Limits(
            max_request_bytes=asked.max_request_bytes,
            max_held_bytes=asked.max_held_bytes,
            max_queue=asked.max_queue,
            body_timeout_s=asked.body_timeout,
        )
        return serve(settings, limits, host=asked.host, port=asked.port)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
