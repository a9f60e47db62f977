"""Verdicts per second of one judge model, asked in three ways in one run on one machine.

A verdict is the three labels of one game. Each game is a MEDEC case (files of the folder in
MEDEC_DIR, else of ../shared/medec, else of data/sample) with ``--changes`` changed sentences: 1, as
the default attacker makes, or 2, where the text itself no longer says whether the assessor found
the error, so that ours asks one question more. A case is played ``--per-case`` times, as in
training, each time changed in another way. Compared:

- loop: one ``generate`` call a game with the rubric, both notes and the assessor's answer in full,
  and a JSON object with the three labels as the answer, decoded greedily;
- batched: the same, games of similar length together, padded on the left;
- ours: the transformers back end, which asks what the text does not decide, shows the changed
  sentences, computes what prompts share once, and reads each label from the next token's
  probabilities.

The model has random weights unless ``--model`` names one, so it would not stop by itself: the JSON
answer is given ``--json-tokens`` tokens: the object alone, about as many as the tokenizers of large
models take for it. Spaces, a code fence around it or a field for reasons, which a model likes to
add, would cost the first two ways more.

The last line, ``ratio: X``, is ours over the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medical_team.answers import Assessment, Classification
from medical_team.atomic_files import replacing
from medical_team.judges.model_judge import ModelJudge
from medical_team.judges.questions import prompts_of
from medical_team.judges.settings import TransformersSettings
from medical_team.medec import Case, read_medec
from medical_team.medical_judge import JudgeQuery, Verdict
from medical_team.prompts import numbered

ROOT = Path(__file__).resolve().parents[1]
# {"error_present":true,"error_identified":false,"realistic":true}
JSON_TOKENS = 20
_ASK_JSON = (
    "Answer with one JSON object with the keys error_present (does the note under review hold a"
    " clinically significant error), error_identified (does this answer identify it) and realistic"
    " (could a clinician have written the note), each true or false."
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, under a minute")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--model", type=Path, help="folder of a model; else a random one is made")
    parser.add_argument(
        "--family", choices=("qwen3", "gemma3", "gemma3_vision"), help="of the random model"
    )
    parser.add_argument("--hidden-size", type=int, help="of the random model")
    parser.add_argument("--layers", type=int, help="of the random model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--games", type=int, help="games judged in each way")
    parser.add_argument("--per-case", type=int, default=8, help="games of one case")
    parser.add_argument("--changes", type=int, choices=(1, 2), default=1, help="in a note")
    parser.add_argument(
        "--json-tokens", type=int, default=JSON_TOKENS, help="tokens of a JSON answer"
    )
    parser.add_argument("--batch", type=int, default=16, help="games a batch in the batched ways")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    shape = (args.family, args.hidden_size, args.layers)
    if args.model and any(shape):
        parser.error("--family, --hidden-size and --layers are for a random model, not --model")
    if args.model and not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model}: no config.json there; name a model's folder")
    small = (64, 2, 16) if args.quick else (768, 12, 16)
    hidden_size, layers, count = (
        default if given is None else given
        for given, default in zip((*shape[1:], args.games), small, strict=True)
    )
    least = min(count, args.batch, args.per_case, args.json_tokens)
    if least < 1:
        parser.error(
            f"--games {count}, --batch {args.batch}, --per-case {args.per_case} and --json-tokens"
            f" {args.json_tokens}: all must be at least 1"
        )
    sources = medec_files()
    games = make_games(sources, count, args.per_case, args.changes)
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            try:
                write_model(Path(folder), args.family or "gemma3", hidden_size, layers)
            except ValueError as error:
                parser.error(str(error))
        report = measure(
            args.model or Path(folder),
            games,
            device=args.device,
            batch=args.batch,
            json_tokens=args.json_tokens,
            sizes=[size for size in BATCH_SIZES if size <= max(16, count)],
        )
    report["per_case"], report["changes"] = args.per_case, args.changes
    report["sources"] = [path.name for path in sources]
    report["model"] = args.model.name if args.model else f"random {args.family or 'gemma3'}"
    show(report)
    if args.json:
        with replacing(args.json) as stream:
            json.dump(report, stream, indent=2)
    print(f"ours over batched JSON: {report['ratio_to_batched']:.2f}")
    print(f"ratio: {report['ratio']:.2f}")


def medec_files() -> list[Path]:
    """The CSV files of MEDEC where they can be found, else of the sample."""
    folder = Path(os.environ.get("MEDEC_DIR", ROOT.parent / "shared" / "medec"))
    return sorted(folder.glob("*.csv")) or sorted((ROOT / "data/sample").glob("*.csv"))


def write_model(folder: Path, family: Any, hidden_size: int, layers: int) -> None:
    """Writes a model with random weights."""
    from recipe.medical_selfplay.tiny.random_models import write_random_model

    write_random_model(folder, family, hidden_size=hidden_size, layers=layers)


def make_games(
    sources: Sequence[Path], count: int, per_case: int, changes: int
) -> list[JudgeQuery]:
    """Games of cases spread evenly over the files, some of each case."""
    cases = [case for path in sources for case in read_medec(path, "val")]
    wanted = -(-count // per_case)
    chosen = cases[:: max(1, len(cases) // wanted)]
    return [
        game_of(chosen[number // per_case % len(chosen)], number, changes)
        for number in range(count)
    ]


def game_of(case: Case, number: int, changes: int) -> JudgeQuery:
    """A game with its own attack, in which the assessor names the annotated sentence."""
    note = list(case.error_sentences)
    others = [i for i in range(len(note)) if i != case.error_sentence_id] or [0]
    changed = case.error_sentence_id if changes == 1 else others[number % len(others)]
    # The number keeps a case that is played again from being the same game.
    note[changed] += f" Seen on day {number}."
    said = Assessment(Classification.HARMFUL, case.error_sentence_id, case.corrected_sentence)
    return JudgeQuery(f"game-{number}", case.clean_sentences, tuple(note), (said,))


def json_messages(game: JudgeQuery) -> list[dict[str, str]]:
    """All three questions at once, both notes in full, to be answered in JSON."""
    (said,) = game.assessments
    assert said is not None
    (prompt,) = prompts_of(game, both_orders=False, ask_realistic=False, reasoning=False)[:1]
    # The rubric's last rule asks for one word.
    rubric = prompt.rubric.replace("6. Answer with the one word Yes or No.\n", "")
    text = (
        f"{rubric}Reference note:\n{numbered(game.clean_note)}\n\n"
        f"Note under review:\n{numbered(game.note)}\n\n"
        f"Answer:\nError sentence: {said.sentence_id}\nCorrection: {said.correction}\n\n{_ASK_JSON}"
    )
    return [{"role": "user", "content": text}]


def measure(
    folder: Path,
    games: Sequence[JudgeQuery],
    *,
    device: str,
    batch: int,
    json_tokens: int,
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Judges the games in the three ways.

    Args:
        folder: the model.
        games: what is judged.
        device: where.
        batch: games a batch in the batched ways.
        json_tokens: length of a JSON answer.
        sizes: games a batch that ours is tried with beside.
    """
    from medical_team.judges.local_model import load
    from medical_team.judges.transformers import engine_of

    settings = TransformersSettings(
        model=str(folder),
        device=device,
        dtype="float32" if device == "cpu" else "bfloat16",
        min_label_mass=0.0,
    )
    tokenizer, model = load(settings)
    judge = ModelJudge(engine_of(tokenizer, model, settings), settings)
    prompts = [
        tokenizer.apply_chat_template(
            json_messages(game),
            add_generation_prompt=True,
            enable_thinking=False,
            return_dict=False,
        )
        for game in games
    ]
    # Longest last, as batches are sorted anyway.
    prompts.sort(key=len)

    def generated(size: int) -> Callable[[], None]:
        return lambda: generate(model, prompts, size, json_tokens)

    def judged(size: int) -> Callable[[], None]:
        return lambda: verdicts_of(judge, games, size)

    ways = {"loop": generated(1), "batched": generated(batch), "ours": judged(batch)}
    generate(model, prompts[:1], 1, 2)  # the first call of anything is slow
    verdicts_of(judge, games[:1], 1)
    rates = {name: len(games) / seconds(way) for name, way in ways.items()}
    tokens = [one.usage for one in verdicts_of(judge, games, batch)]
    return {
        "parameters": model.num_parameters(),
        "device": device,
        "dtype": settings.dtype,
        "games": len(games),
        "batch": batch,
        "json_tokens": json_tokens,
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "computed_tokens": sum(u.prompt_tokens - (u.cached_tokens or 0) for u in tokens)
        / len(tokens),
        "verdicts_per_s": rates,
        "by_batch": {size: len(games) / seconds(judged(size)) for size in sizes},
        "ratio": rates["ours"] / rates["loop"],
        "ratio_to_batched": rates["ours"] / rates["batched"],
    }


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a piece of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def generate(model: Any, prompts: Sequence[list[int]], size: int, tokens: int) -> None:
    """Decodes exactly ``tokens`` tokens after each prompt, ``size`` prompts at once."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        length = max(map(len, part))
        ids = [[0] * (length - len(one)) + list(one) for one in part]
        seen = [[0] * (length - len(one)) + [1] * len(one) for one in part]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(seen, device=model.device),
                generation_config=config,
            )
        output.tolist()  # waits for the device


def verdicts_of(judge: ModelJudge, games: Sequence[JudgeQuery], size: int) -> list[Verdict]:
    """Judges all games, ``size`` at once.

    Raises:
        SystemExit: if a game got no verdict.
    """
    found: list[Verdict] = []
    for start in range(0, len(games), size):
        for one in judge.judge(games[start : start + size]):
            if not isinstance(one, Verdict):
                raise SystemExit(f"{one.query_id} got no verdict: {one.reason}")
            found.append(one)
    return found


def show(report: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console()
    console.print(
        f"{report['model']}, {report['parameters'] / 1e6:.1f} M parameters, {report['dtype']} on"
        f" {report['device']}; {report['games']} games of {', '.join(report['sources'])},"
        f" {report['per_case']} a case, {report['changes']} sentences changed;"
        f" {report['prompt_tokens']:.0f} tokens a prompt, {report['json_tokens']} a JSON answer;"
        f" ours computes {report['computed_tokens']:.0f} tokens a verdict"
    )
    table = Table(title="verdicts per second")
    table.add_column("way")
    table.add_column("games at once", justify="right")
    table.add_column("verdicts/s", justify="right")
    table.add_column("over the loop", justify="right")
    rates = report["verdicts_per_s"]
    for name, rate in rates.items():
        at_once = "1" if name == "loop" else str(report["batch"])
        table.add_row(name, at_once, f"{rate:.2f}", f"{rate / rates['loop']:.2f}")
    for size, rate in report["by_batch"].items():
        table.add_row("ours", str(size), f"{rate:.2f}", f"{rate / rates['loop']:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
