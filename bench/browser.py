"""Debian's Chromium, driven by Playwright: for the tests of the page and for its screenshots."""

from __future__ import annotations

import shutil

from playwright.sync_api import Browser, Playwright

FLAGS = (
    "--no-sandbox",  # a container's root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch(playwright: Playwright) -> Browser:
    """The system's own Chromium, without a window.

    Raises:
        FileNotFoundError: there is none.
    """
    path = shutil.which("chromium")
    if path is None:
        raise FileNotFoundError("Chromium is missing: apt-get install chromium")
    return playwright.chromium.launch(executable_path=path, args=FLAGS)
