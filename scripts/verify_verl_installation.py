"""Checks that this machine can train: versions, plugin, device, Ray, disk space, configurations.

One line a check; exits 1 when any of them fails.
"""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--no-ray", "--quick", action="store_true", dest="no_ray", help="do not start Ray"
    )
    arguments = parser.parse_args()
    try:
        from recipe.medical_selfplay.installation import check_all
    except ModuleNotFoundError as error:  # without the project there is nothing to check with
        print(
            f"FAIL  {sys.executable} has no {error.name}  fix: run ./setup_env.sh, use its python"
        )
        return 1
    statuses = []
    for check in check_all(ray=not arguments.no_ray):
        print(check, flush=True)
        statuses.append(check.status)
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("ok", "FAIL", "skip"))
    print(counts)
    return 1 if "FAIL" in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
