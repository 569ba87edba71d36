"""A headless Chromium, driven by chromedriver's WebDriver protocol (W3C): no library, and nothing is downloaded."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Escape": "\ue00c", "ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Enter": "\ue007", "Tab": "\ue004"}

CENTRE = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"


def installed() -> tuple[str, str] | None:
    """Returns the paths of a Chromium and its driver, or None."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """A window of one size."""

    def __init__(self, address: str, binary: str, width: int, height: int, scripts: bool, dark: bool) -> None:
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        switches += ["--hide-scrollbars", "--disable-background-networking", "--force-device-scale-factor=1"]
        options: dict[str, Any] = {"binary": binary, "args": switches + ["--force-dark-mode"] * dark}
        if not scripts:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        self._address = address
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._address = f"{address}/session/{session}"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._cdp("Emulation.setDeviceMetricsOverride", size)  # a window is at least 500 pixels wide

    def open(self, page: Path) -> None:
        """Shows a file."""
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Returns what JavaScript returns."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str, number: int = 0) -> None:
        """Scrolls to an element and clicks on its middle, as a user would."""
        found = self._post("/elements", {"using": "css selector", "value": selector})[number]
        self.run(CENTRE, found)
        self._post(f"/element/{next(iter(found.values()))}/click", {})

    def point(self, selector: str, x: int = 0, y: int = 0) -> None:
        """Moves the pointer to a place, in pixels from an element's middle."""
        found = self._post("/element", {"using": "css selector", "value": selector})
        self.run(CENTRE, found)
        moves = [{"type": "pointerMove", "duration": 0, "origin": found, "x": x, "y": y}]
        self._post("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        value = KEYS.get(key, key)
        actions = [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def complaints(self) -> list[str]:
        """Returns what the browser's console has said since the last call."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def picture(self, path: Path, whole: bool = True) -> None:
        """Writes a PNG of the page, or of what is in view."""
        shown = self._cdp("Page.captureScreenshot", {"captureBeyondViewport": whole} | self._clip(whole))
        path.write_bytes(base64.b64decode(shown["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self._call(urllib.request.Request(self._address, method="DELETE"))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        width, height = self.run("const d = document.documentElement; return [d.scrollWidth, d.scrollHeight]")
        return {"clip": {"x": 0, "y": 0, "width": width, "height": min(height, 15000), "scale": 1}}

    def _cdp(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        body = json.dumps(content).encode()
        return self._call(urllib.request.Request(self._address + path, body, {"Content-Type": "application/json"}))

    @staticmethod
    def _call(request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def browser(width: int = 1200, height: int = 900, scripts: bool = True, dark: bool = False) -> Iterator[Browser]:
    """Starts a browser of the one that is ``installed``, and ends it."""
    found = installed()
    assert found is not None, "no Chromium is installed"
    with subprocess.Popen(
        [found[1], "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            line = next(line for line in driver.stdout if "started successfully on port" in line)
            opened = Browser(
                f"http://127.0.0.1:{int(line.split()[-1].rstrip('.'))}", found[0], width, height, scripts, dark
            )
            try:
                yield opened
            finally:
                opened.close()
        finally:
            driver.terminate()


@pytest.fixture(scope="session")
def chromium() -> Callable[..., AbstractContextManager[Browser]]:
    """``browser``, where there is a Chromium with its driver."""
    if installed() is None:
        pytest.skip("no Chromium with its chromedriver is installed (Debian: apt-get install chromium chromium-driver)")
    return browser
