"""Trains with verl from a short configuration file.

Every further argument is a Hydra override of verl's own keys and wins over the file, such as
`hardware=cpu trainer.total_training_steps=4`. Run it from the project's root.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from recipe.medical_selfplay.short_form import (
    CONFIG_DIR,
    ShortFormError,
    read_short_form,
    start,
    verl_command,
)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG_DIR / "verl_config.yaml",
        metavar="FILE",
        help="short-form YAML file (default: configs/verl_config.yaml)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print verl's command and stop")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    arguments = parser.parse_intermixed_args()
    try:
        form = read_short_form(arguments.config)
        command = verl_command(form, arguments.overrides)
        for key in form.without_effect():
            print(f"note: {key} has no effect with {form.algorithm.name}", file=sys.stderr)
        print(shlex.join(command))
        if not arguments.dry_run:
            start(command)
    except ShortFormError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
