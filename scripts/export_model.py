"""Turns a checkpoint into a folder that plain transformers and vLLM read, with a model card.

CHECKPOINT is a run's folder (its last checkpoint is taken), a checkpoints/global_step_N in it, a
supervised start's checkpoint, or a folder that is a Hugging Face model already. Checkpoints hold
pickles: export only those that you trust.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.metrics_file import read_metrics
from medical_team.prompts import PromptStyle


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    parser.add_argument("--run", type=Path, help="the run's folder, if CHECKPOINT is not in it")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights; auto is what the run's validation computed in",
    )
    parser.add_argument(
        "--prompt-style", choices=list(map(str, PromptStyle)), help="where no run says it"
    )
    parser.add_argument(
        "--think-opened",
        action=argparse.BooleanOptionalAction,
        help="whether prompts ended in <think>, where no run says it",
    )
    parser.add_argument("--licence", help="the base model's, as the hub names it, for the card")
    parser.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the base model's name on the hub, for the card"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="metrics.json of scripts/evaluate_medec.py"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this hub repository")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    args = parser.parse_args()
    try:
        return _export(args)
    except KeyboardInterrupt:
        print(f"stopped. {args.output} is as it was, or complete.", file=sys.stderr)
        return 130


def _export(args: argparse.Namespace) -> int:
    _be_quiet()
    from recipe.medical_selfplay.export.checkpoint import ExportError, find_checkpoint
    from recipe.medical_selfplay.export.export import Wishes, export_model
    from recipe.medical_selfplay.export.folder import check_target
    from recipe.medical_selfplay.export.hub import check_hub, push

    try:
        check_target(args.output, force=args.force)
        checkpoint = find_checkpoint(args.checkpoint, args.run)
        evaluation = read_metrics(args.evaluation) if args.evaluation else None
        if args.push:
            check_hub(args.push)
        wishes = Wishes(
            args.dtype,
            None if args.prompt_style is None else PromptStyle(args.prompt_style),
            args.think_opened,
            args.licence,
            evaluation,
            args.base_model,
        )
        export_model(checkpoint, args.output, wishes)
        print(f"{args.output}: exported; its README.md says how to ask it.")
        if args.push:
            message = f"Step {checkpoint.step}" if checkpoint.step else "Upload"
            print(push(args.output, args.push, message, public=args.public))
    except (EvaluationError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _be_quiet() -> None:
    """Keeps verl, torch and transformers from telling of engines that are not needed here."""
    os.environ.setdefault("VERL_PLATFORM", "cpu")  # merging needs no accelerator
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    # Not the loggers by name: verl sets its own level when it is imported.
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
