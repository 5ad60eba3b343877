"""The page of a report in a real browser, as wide as a phone and as a desk."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import in_a_browser, open_browser

from halo_ray.config import Config


@in_a_browser
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_window_shows_all_pictures_and_asks_nobody_for_anything(
    experiment: Config, width: int
) -> None:
    browser = open_browser(1280)
    try:
        # A window is never as narrow as a phone.
        device = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        browser.get(Path(experiment.output_dir, "report/index.html").as_uri())
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        pictures = browser.execute_script(
            "return [...document.images].map(i => [i.complete && i.naturalWidth, i.getBoundingClientRect().width])"
        )
        assert len(pictures) == 11
        assert all(natural > 500 and 0.8 * min(natural, width) < shown <= width for natural, shown in pictures)
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()
