"""A real browser without a window, for tests of pages."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

in_a_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium or no chromedriver: install Debian's chromium and chromium-driver"
)


def open_browser(width: int = 1280, height: int = 900) -> Chrome:
    """A browser with a window of so many pixels; whoever opens it closes it with quit()."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
