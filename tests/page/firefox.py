"""Debian's Firefox, driven by Marionette, its own protocol: Playwright drives a Firefox of its own alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import HANG_SECONDS, wait_until

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
needs_firefox = pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed (apt-get install firefox-esr)")

POLL_SECONDS = 0.1


class Firefox:
    """One window."""

    def __init__(self, connection: socket.socket, downloads: Path) -> None:
        self._stream = connection.makefile("rwb")
        self._receive()  # who it is
        self._number = 0
        self.downloads = downloads

    def command(self, name: str, **parameters: Any) -> Any:
        """Of WebDriver's; raises RuntimeError where it fails."""
        self._number += 1
        message = json.dumps([0, self._number, f"WebDriver:{name}", parameters]).encode()
        self._stream.write(b"%d:%s" % (len(message), message))
        self._stream.flush()
        _, _, error, result = self._receive()
        if error:
            raise RuntimeError(f"{name}: {error['message']}")
        return result.get("value") if isinstance(result, dict) else result

    def run(self, script: str, *arguments: Any) -> Any:
        """The body of a function in the page; what it returns, or what the promise gives that it returns."""
        return self.command("ExecuteScript", script=script, args=list(arguments), newSandbox=False, sandbox=None)

    def wait(self, expression: str) -> None:
        """Until it is true."""
        end = time.monotonic() + HANG_SECONDS
        while not self.run(f"return {expression};"):
            assert time.monotonic() < end, f"{expression} did not become true: {self.text('body')}"
            time.sleep(POLL_SECONDS)

    def text(self, selector: str) -> str:
        """What is seen there."""
        text: str = self.run("return document.querySelector(arguments[0]).innerText;", selector)
        return text

    def click(self, selector: str) -> None:
        """As with a mouse."""
        self.command("ElementClick", id=self._find(selector))

    def type(self, selector: str, keys: str) -> None:
        """Into a field, or the paths of files, line by line."""
        self.command("ElementSendKeys", id=self._find(selector), text=keys)

    def _find(self, selector: str) -> str:
        (element,) = self.command("FindElement", using="css selector", value=selector).values()
        return str(element)

    def _receive(self) -> Any:
        length = b""
        while (digit := self._stream.read(1)) != b":":
            assert digit, "Firefox has gone"
            length += digit
        return json.loads(self._stream.read(int(length)))


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """A Firefox that keeps all it has in that folder."""
    profile, downloads = folder / "profile", folder / "downloads"
    for each in (profile, downloads):
        each.mkdir()
    preferences = {
        "marionette.port": 0,
        "browser.download.folderList": 2,
        "browser.download.dir": str(downloads),
        "browser.shell.checkDefaultBrowser": False,
        "datareporting.policy.dataSubmissionEnabled": False,
        "app.update.enabled": False,
        "network.captive-portal-service.enabled": False,
    }
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in preferences.items()]
    (profile / "user.js").write_text("\n".join(lines))
    command = [FIREFOX or "firefox", "--marionette", "--headless", "--no-remote", "--profile", str(profile)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    port = profile / "MarionetteActivePort"
    try:
        wait_until(lambda: process.poll() is not None or (port.exists() and port.read_text().isdigit()))
        with socket.create_connection(("127.0.0.1", int(port.read_text())), timeout=HANG_SECONDS) as connection:
            browser = Firefox(connection, downloads)
            browser.command("NewSession")
            browser.command("SetWindowRect", width=1440, height=900)
            yield browser
    finally:
        process.kill()
        process.wait()
