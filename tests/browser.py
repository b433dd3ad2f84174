"""A headless Chromium driven over a pipe by its debugging protocol, with nothing but the standard library."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


def chromium() -> str | None:
    """The program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of the browser; what it complains of is kept in `errors`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest = commands, answers, b""
        self._number, self._session = 0, None
        self.errors: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScrollbarsHidden", hidden=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._answers, 1 << 20)
            assert block, "the browser ended"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(line)
        self._note(answer.get("method"), answer.get("params", {}))
        return answer

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        if event == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning", "assert"}:
            self.errors.append(str(told["args"]))
        if event == "Log.entryAdded" and told["entry"]["level"] in {"error", "warning"}:
            self.errors.append(told["entry"]["text"])
        if event == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.errors.append(f"asks for {told['request']['url']}")

    def show(self, path: Path, width: int, height: int = 900) -> None:
        """Open a file at a width in pixels."""
        self.resize(width, height)
        self.ask("Page.navigate", url=path.resolve().as_uri())
        ready = "document.readyState === 'complete' ? done() : addEventListener('load', () => done())"
        self.value(f"new Promise(done => {ready})")

    def resize(self, width: int, height: int = 900) -> None:
        """Make the window that wide."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def value(self, expression: str) -> Any:
        """Return what an expression, or the promise that it is, comes to."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        found = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def opened(program: str, profile: Path) -> Iterator[Tab]:
    """A browser with a profile of its own, ended with the context."""
    here, their_answers = os.pipe()
    their_commands, there = os.pipe()
    # the protocol's ends are the file descriptors 3 and 4
    shell = ["bash", "-c", 'exec "$@" 3<&"$IN" 4>&"$OUT"', "bash"]
    command = [*shell, program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    environment = {**os.environ, "IN": str(their_commands), "OUT": str(their_answers), "HOME": str(profile)}
    process = subprocess.Popen(
        command, pass_fds=(their_commands, their_answers), env=environment, stderr=subprocess.DEVNULL
    )
    os.close(their_commands)
    os.close(their_answers)
    try:
        yield Tab(there, here)
    finally:
        process.kill()
        process.wait()
        os.close(there)
        os.close(here)
