"""The page in a real browser: sorting, filtering, copying, the gallery, by mouse and by keyboard.

Needs Chromium, its chromedriver and selenium; on Debian `apt-get install chromium chromium-driver`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.results import config, make_run
from winclip_bench.report.page import write_page
from winclip_bench.report.tables import METRICS

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no Chromium with a chromedriver on this machine"
)

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> #1?%"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "results"
    for dataset, offset in (("parts", 0.0), ("zoo", 0.3)):
        for k, seed, value in ((0, 0, 0.52), (4, 0, 0.6), (4, 1, 0.64)):
            numbers = dict.fromkeys(METRICS, value + offset) | ({"ap_px": None} if k else {})
            make_run(folder, ["bolt"], config(dataset, k, seed), metrics=numbers, shown=0)
    make_run(folder, [HOSTILE, "nut"], config("pictures", k=2), images=20, defect=HOSTILE, shown=16)
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1000")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # it looks for updates by itself
    options.add_argument("--disable-background-networking")
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def index(driver: Any, results: Path) -> Iterator[Any]:
    driver.get((results / "index.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []  # nothing was refused and nothing raised


@pytest.fixture
def run_page(driver: Any, results: Path) -> Iterator[Any]:
    (page,) = (results / "page" / "pictures").glob("*.html")
    driver.get(page.as_uri())
    yield driver
    assert driver.get_log("browser") == []


def find(driver: Any, selector: str) -> list[Any]:
    return list(driver.find_elements("css selector", selector))


def column(driver: Any, number: int) -> list[str]:
    """The visible texts of a column of the overview."""
    script = (
        "return [...document.querySelectorAll('#overview tbody tr')].filter(row => row.getClientRects().length)"
        ".map(row => row.cells[arguments[0]].innerText.trim())"
    )
    return list(driver.execute_script(script, number))


def test_a_click_sorts_numbers_the_best_first_and_what_is_missing_last(index: Any) -> None:
    heads = [head.text for head in find(index, "#overview thead th")]
    at = heads.index("ap_px")
    button = find(index, "#overview thead th button")[at]
    button.click()
    down = column(index, at)
    assert [text for text in down if text != "–"] == ["82.0", "52.0"] or down[-1] == "–"
    numbers = [float(text) for text in down if text != "–"]
    assert numbers == sorted(numbers, reverse=True)
    assert set(down[len(numbers) :]) == {"–"}
    assert find(index, "#overview thead th")[at].get_attribute("aria-sort") == "descending"
    button.click()
    up = column(index, at)
    assert [float(text) for text in up if text != "–"] == sorted(numbers)
    assert set(up[len(numbers) :]) == {"–"}
    find(index, "#overview thead th button")[0].click()
    assert column(index, 0) == sorted(column(index, 0))
    assert find(index, "th[aria-sort]")[0].text == "dataset"


def test_words_and_choices_leave_the_rows_that_have_them(index: Any) -> None:
    everything = column(index, 0)
    find(index, "#find")[0].send_keys("ZOO winclip")
    assert set(column(index, 0)) == {"zoo"}
    assert find(index, "#said")[0].text == f"2 of {len(everything)} rows"
    choice = find(index, "select[data-column=k]")[0]
    choice.send_keys("4")
    assert list(zip(column(index, 0), column(index, 3), strict=True)) == [("zoo", "4")]
    find(index, "#find")[0].send_keys(" nothing")
    assert column(index, 0) == []
    index.execute_script("location.reload()")


def test_what_is_seen_is_copied_as_markdown_and_as_latex(index: Any) -> None:
    index.execute_script(
        "window.copied = []; navigator.clipboard.writeText = text => { copied.push(text); return Promise.resolve(); }"
    )
    find(index, "#find")[0].send_keys("parts winclip+")
    for button in find(index, "button.copy"):
        button.click()
    markdown, latex = index.execute_script("return window.copied")
    head, rule, *rows = markdown.splitlines()
    assert head.startswith("| dataset | method | backbone | k | auroc\\_px |")
    assert rule.split("|")[1:6] == [" :--- ", " :--- ", " :--- ", " ---: ", " ---: "]
    (row,) = rows
    assert "| parts | WinCLIP+ | demo (some\\_tag) | 4 | **62.0 ± 2.8** |" in row
    assert "\\begin{tabular}{lllrrrrrrrr}" in latex
    assert "parts & WinCLIP+ & demo (some\\_tag) & 4 & \\textbf{62.0 $\\pm$ 2.8}" in latex
    assert latex.count("\\\\") == 2
    assert find(index, "#said")[0].text == "copied"


def test_a_hostile_name_is_shown_and_not_obeyed(run_page: Any) -> None:
    assert run_page.title != "owned"
    assert [head.text for head in find(run_page, "section.class > h2")] == [HOSTILE, "nut"]
    run_page.execute_script("for (const more of document.querySelectorAll('details.more')) more.open = true")
    run_page.execute_script("for (const image of document.images) image.loading = 'eager'")
    waiting = "const done = arguments[0]; Promise.all([...document.images].map(image => image.decode())).then(() => done(0), () => done(1))"  # fmt: skip  # noqa: E501
    assert run_page.execute_async_script(waiting) == 0  # every picture is there


def test_the_gallery_by_mouse_and_keyboard(run_page: Any) -> None:
    keys = webdriver.common.keys.Keys
    shown = [shot for shot in find(run_page, ".shot") if shot.is_displayed()]
    assert len(shown) == 12  # the first six of two classes
    find(run_page, "details.more summary")[0].click()
    assert len([shot for shot in find(run_page, ".shot") if shot.is_displayed()]) == 22

    first = find(run_page, "button.open")[0]
    first.click()
    (dialog,) = find(run_page, "dialog")
    assert dialog.is_displayed()
    path = find(run_page, "dialog .path")[0].text
    dialog.send_keys(keys.ARROW_RIGHT)
    assert find(run_page, "dialog .path")[0].text != path
    find(run_page, "dialog .previous")[0].click()
    assert find(run_page, "dialog .path")[0].text == path
    dialog.send_keys(keys.ESCAPE)
    assert not dialog.is_displayed()
    assert run_page.switch_to.active_element == first
    first.send_keys(keys.ENTER)
    assert dialog.is_displayed()
    find(run_page, "dialog .close")[0].click()


def test_the_choices_of_how_pictures_are_shown(run_page: Any) -> None:
    def style(selector: str, name: str) -> str:
        return str(find(run_page, selector)[0].value_of_css_property(name))

    assert (style(".map.shared", "display"), style(".map.own", "display")) == ("block", "none")
    find(run_page, "#scale-own")[0].click()
    assert (style(".map.shared", "display"), style(".map.own", "display")) == ("none", "block")
    find(run_page, "#view-map")[0].click()
    assert style(".map.own", "opacity") == "1"
    find(run_page, "#view-image")[0].click()
    assert style(".map.own", "display") == "none"
    assert style(".anomalous .truth", "display") != "none"
    find(run_page, "#view-truth")[0].click()
    assert style(".anomalous .truth", "display") == "none"
    find(run_page, "#of-normal")[0].click()
    assert not any(shot.is_displayed() for shot in find(run_page, ".shot.anomalous"))
    assert any(shot.is_displayed() for shot in find(run_page, ".shot.normal"))


def test_a_phone_and_the_dark(driver: Any, results: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        for page in (results / "index.html", *(results / "page").glob("*/*.html")):
            driver.get(page.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, page
            background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert background == "rgb(21, 24, 28)"
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_every_control_has_a_name(run_page: Any) -> None:
    unnamed = run_page.execute_script(
        "return [...document.querySelectorAll('button, input, select, a, img, svg[role=img]')].filter(e => "
        "!(e.innerText || e.ariaLabel || e.alt || (e.labels && e.labels.length && e.labels[0].textContent)))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []
