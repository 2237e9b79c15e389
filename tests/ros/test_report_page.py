# SPDX-License-Identifier: Apache-2.0
"""report.html in a browser without a network: a film, a slider and plots that move together.

Episodes of 8, 16 and 24 steps of 0.05 s; films of 4 frames for each 8 steps, 0.1 s apart.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from par_ros.episode_video import write_episode_video
from par_ros.report import write_report
from par_ros.run_results import RunResults
from tests.ros.processes import wait_for
from tests.ros.test_run_results import results  # noqa: F401  a fixture

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
PATIENCE_S = 60.0
MAX_PAGE_BYTES = 3_000_000
# A frame is shown from its time on; the driver rounds to a pixel of the slider.
SOON_S = 0.02

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason=f"needs one of {', '.join(BROWSERS)}, and chromedriver"
)


@pytest.fixture
def report(results: RunResults, tmp_path: Path) -> Path:  # noqa: F811
    for episode in results.episodes:
        stamps_ns = [round(1e9 * time_s) for time_s in episode.video_times_s]
        pictures = {
            stamp_ns: np.full((64, 64, 3), 20 * number, np.uint8)
            for number, stamp_ns in enumerate(stamps_ns)
        }
        assert episode.video is not None
        write_episode_video(
            tmp_path / episode.video, {"front": pictures}, {}, {}, f"seed {episode.seed}"
        )
    return write_report(results, tmp_path)


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1300,1000", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def opened(browser: Any, report: Path) -> Any:
    browser.get(report.as_uri())
    wait_for(lambda: said(browser, "document.documentElement.dataset.drawn"), PATIENCE_S, "drawing")
    return browser


def said(browser: Any, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def film_time_s(browser: Any) -> float:
    wait_for(lambda: said(browser, "film.readyState > 1 && !film.seeking"), PATIENCE_S, "the film")
    return float(said(browser, "film.currentTime"))


def cursor_share(browser: Any) -> float:
    """Where the cursor stands between the ends of the time axis."""
    return float(
        said(
            browser,
            "(cursor.getBoundingClientRect().left"
            " - document.querySelector('#rows .nsewdrag').getBoundingClientRect().left)"
            " / document.querySelector('#rows .nsewdrag').getBoundingClientRect().width",
        )
    )


def move_slider(browser: Any, time_s: float) -> None:
    browser.execute_script(
        "const slider = document.getElementById('time'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'))",
        time_s,
    )


def test_it_opens_without_an_error_and_without_a_network(browser: Any, report: Path) -> None:
    opened(browser, report)
    film_time_s(browser)
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    loaded = said(browser, "performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(name.startswith(("file:", "blob:")) for name in loaded)
    assert said(browser, "document.querySelectorAll('#rows .trace').length") > 0
    assert not said(browser, "undrawn.checkVisibility()")
    assert report.stat().st_size < MAX_PAGE_BYTES


def test_the_slider_moves_film_cursor_and_values(browser: Any, report: Path) -> None:
    """Frames of 0.1 s; of 0.4 s, 0.25 s is the third frame's."""
    opened(browser, report)
    film_time_s(browser)
    move_slider(browser, 0.25)
    assert film_time_s(browser) == pytest.approx(0.25, abs=SOON_S)
    assert cursor_share(browser) == pytest.approx(0.25 / 0.4, abs=0.01)
    values = said(browser, "now.innerText")
    assert values.startswith("0.25 s")
    assert "joint speed: 2.00 rad/s" in values
    assert "chunk 1: 500.0 ms" in values


def test_a_click_in_the_plots_moves_slider_and_film(browser: Any, report: Path) -> None:
    """Of the episode of 16 steps, 0.8 s, the click is at 0.65 s: the seventh frame of 0.1 s."""
    opened(browser, report)
    film_time_s(browser)
    browser.execute_script(
        "const list = document.getElementById('episode'); list.value = 1;"
        "list.dispatchEvent(new Event('change'))"
    )
    assert said(browser, "document.getElementById('time').max") == "0.8"
    film_time_s(browser)
    area = browser.find_element("css selector", "#rows .nsewdrag")
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    actions.move_to_element_with_offset(
        area, round((0.65 / 0.8 - 0.5) * area.size["width"]), 0
    ).click().perform()
    assert float(said(browser, "document.getElementById('time').value")) == pytest.approx(
        0.65, abs=SOON_S
    )
    assert film_time_s(browser) == pytest.approx(0.65, abs=SOON_S)
    values = said(browser, "now.innerText")
    assert "chunk 2: 20.0 ms" in values
    assert "surprise: 0.250" in values
    assert "warning: 0.200" in values


def test_the_film_moves_the_slider(browser: Any, report: Path) -> None:
    opened(browser, report)
    film_time_s(browser)
    browser.execute_script("film.playbackRate = 0.25; return film.play()")
    moved = "Number(document.getElementById('time').value) > 0.05"
    wait_for(lambda: said(browser, moved), PATIENCE_S, "the slider")
    browser.execute_script("film.pause()")
    assert cursor_share(browser) > 0.1


def test_it_fits_a_narrow_screen(browser: Any, report: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False},
    )
    opened(browser, report)
    assert said(browser, "document.documentElement.scrollWidth") <= 390
    story, rows = (
        said(browser, f"document.querySelector('{name}').getBoundingClientRect().width")
        for name in (".story", "#rows")
    )
    assert rows == pytest.approx(story, abs=1)


def test_it_is_dark_where_the_system_is(browser: Any, report: Path) -> None:
    def brightness(expression: str) -> float:
        colour = said(browser, expression)
        channels = colour.removeprefix("rgb(").removesuffix(")").split(",")
        return sum(map(float, channels)) / 3

    page = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('#rows .xtick text')).fill"
    opened(browser, report)
    assert brightness(page) > 200 > 100 > brightness(text)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    wait_for(lambda: brightness(text) > 150, PATIENCE_S, "the dark plots")
    assert brightness(page) < 60
