"""A person who reads a report in a real Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = {"down": "\ue015", "enter": "\ue007", "escape": "\ue00c", "right": "\ue014", "tab": "\ue004"}


class Reader:
    """A person at the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, target: str = "") -> Reader:
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.resize(1280, 900)
        self.dark(False)
        self.driver.get("about:blank")
        self.driver.get(f"{path.as_uri()}#{target}")
        self.until(lambda: self.js("return document.documentElement.dataset.ready"))
        return self

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 30
        while not (found := condition()):
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text[:2000]
            time.sleep(0.03)
        return found

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def resize(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def dark(self, on: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def filter(self, **values: str) -> int:
        """Sets filters as a hand would; returns how many games are left."""
        for name, value in values.items():
            self.js(
                "const node = document.getElementById('filter-' + arguments[0]);"
                "node.value = arguments[1];"
                "node.dispatchEvent(new Event('input', { bubbles: true }));",
                name,
                value,
            )
        return self.count()

    def count(self) -> int:
        time.sleep(0.25)  # the search waits for a pause in typing
        self.until(lambda: "searching" not in self.text("#count"))
        return int(self.text("#count").split()[0].replace(",", ""))

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def all(self, selector: str) -> list[str]:
        return list(
            self.js(
                "return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)",
                selector,
            )
        )

    def open_game(self, place: int) -> None:
        self.js("document.getElementById('row-' + arguments[0]).click()", place)
        self.until(lambda: self.js("return document.querySelector('#game .sentence') !== null"))

    def address(self) -> str:
        return str(self.js("return decodeURIComponent(location.hash)"))

    def troubles(self) -> list[str]:
        """Messages of the console, and whatever was asked of the network."""
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                found += [] if url.startswith(("file:", "about:")) else [url]
        return found
