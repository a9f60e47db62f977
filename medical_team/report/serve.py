"""The report on a web server of one's own, made anew when the run has gone on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from medical_team.report.game_files import game_files
from medical_team.report.metric_files import METRIC_FILES
from medical_team.report.run_config import CONFIG
from medical_team.report.summary import CALIBRATION

LOOPBACK: Final = "127.0.0.1"
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Stamp = tuple[tuple[str, int, int], ...]


def folder_stamp(folders: Iterable[Path]) -> Stamp:
    """What changes when a run goes on: names, sizes and times of the files a report is made of."""
    found = []
    for folder in folders:
        paths = [folder / name for name in (CONFIG, CALIBRATION, *METRIC_FILES)]
        for path in [*paths, *(file.path for file in game_files(folder))]:
            if path.is_file():
                status = path.stat()
                found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


class ReportServer(ThreadingHTTPServer):
    """Serves one page at ``/``, to this machine only.

    Args:
        build: makes the page.
        stamp: tells whether it must be made again.
        port: 0 for a free one.

    Raises:
        OSError: if the port is taken.
    """

    daemon_threads = True

    def __init__(
        self,
        build: Callable[[], str],
        stamp: Callable[[], Stamp],
        port: int = 0,
    ) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self._build = build
        self._stamp = stamp
        self._lock = threading.Lock()
        self._made: tuple[Stamp, bytes] | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser may call this server.

        A page of another site could have its name resolve to this machine and then read the games.
        """
        return tuple(f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost"))

    def keep(self, stamp: Stamp, page: str) -> None:
        """Takes a page that was made already, with the stamp of the files before that."""
        self._made = (stamp, page.encode("utf-8"))

    def page(self) -> bytes:
        """The page, made anew if the run has gone on."""
        with self._lock:
            now = self._stamp()
            if self._made is None or self._made[0] != now:
                self._made = (now, self._build().encode("utf-8"))
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The page, and nothing else."""
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403, "Unknown host")
        elif self.path.partition("?")[0] != "/":
            self.send_error(404)
        else:
            self._answer()

    def _answer(self) -> None:
        try:
            page = self.server.page()
        except (OSError, ValueError) as error:
            self.send_error(500, "The report cannot be made", str(error))
            return
        self.send_response(200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a line for every reload helps nobody."""
