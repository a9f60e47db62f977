"""Writes a judge model with random weights: it runs like a real one, its labels are noise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from recipe.medical_selfplay.tiny.random_models import FAMILIES, write_random_model


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, default="qwen3", help="architecture")
    parser.add_argument("--output", type=Path, required=True, help="the model's folder")
    parser.add_argument("--hidden-size", type=int, default=64, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=2000, help="most tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    args = parser.parse_args()
    disable_progress_bar()
    try:
        write_random_model(
            args.output,
            args.family,
            hidden_size=args.hidden_size,
            layers=args.layers,
            vocab_size=args.vocab_size,
            seed=args.seed,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.output}: a random {args.family} judge. Its labels are noise: use it for tests only."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
