"""Writes the report of a run: one HTML file with its curves and games, and the curves as pictures.

The page needs no network and no server. A run that is still going on has a report too.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from medical_team.atomic_files import why_not_written
from medical_team.report.figures import FORMATS, write_figures
from medical_team.report.page import Report, build_report, write_page
from medical_team.report.run_data import ReportError
from medical_team.report.serve import ReportServer, Stamp, folder_stamp
from medical_team.report.terminal_text import left_out


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder, such as outputs/RUN")
    parser.add_argument("--compare", type=Path, metavar="RUN2", help="a second run, shown beside")
    parser.add_argument("--output-dir", type=Path, help="where to write (default: RUN/report)")
    parser.add_argument(
        "--figures",
        type=formats,
        default=["png"],
        metavar="FORMAT,...",
        help=f"formats of the curves' pictures: {', '.join(FORMATS)}, or none (default: png)",
    )
    parser.add_argument(
        "--max-games",
        type=int,
        default=50_000,
        help="most games in the page, drawn evenly (default: 50000); 0 for all",
    )
    parser.add_argument(
        "--serve", action="store_true", help="serve it on this machine, made anew at a reload"
    )
    parser.add_argument("--port", type=int, default=0, help="port of --serve (default: a free one)")
    args = parser.parse_args()
    if args.max_games < 0:
        parser.error(f"--max-games is {args.max_games}, expected 0 or more")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port is {args.port}, expected 0 to 65535")
    output = args.output_dir or args.run / "report"

    folders = [folder for folder in (args.run, args.compare) if folder is not None]

    def build() -> Report:
        return build_report(
            args.run,
            now=datetime.now().astimezone(),
            compare=args.compare,
            max_games=args.max_games or None,
        )

    def stamp() -> Stamp:
        return folder_stamp(folders)

    with ExitStack() as opened:
        try:
            # The port first: a page of many games takes its time.
            server = (
                opened.enter_context(ReportServer(lambda: build().html, stamp, args.port))
                if args.serve
                else None
            )
        except OSError as error:
            print(f"error: port {args.port}: {error.strerror}; leave --port out", file=sys.stderr)
            return 2
        try:
            before = stamp()
            report = build()
            write_page(report, output / "index.html")
            figures = write_figures(report.runs, report.groups, output, args.figures)
        except ReportError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"error: {why_not_written(error, output)}", file=sys.stderr)
            return 2
        for run in report.runs:
            if run.notes:
                print(f"{run.folder}: {left_out(len(run.notes))}, the first: {run.notes[0]}")
        print(f"{report.shown} of {report.games} games in {output / 'index.html'}")
        if figures:
            print(f"{len(figures)} pictures of the curves beside it")
        if server is not None:
            server.keep(before, report.html)
            serve(server)
    return 0


def formats(given: str) -> list[str]:
    """The formats of ``--figures``."""
    chosen = [] if given == "none" else given.split(",")
    for one in chosen:
        if one not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"{one!r} is no format, expected {', '.join(FORMATS)} with commas, or none"
            )
    return chosen


def serve(server: ReportServer) -> None:
    """Serves the page until Ctrl-C."""
    print(f"{server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
