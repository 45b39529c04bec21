"""The page in a real browser: nothing requested, nothing run, nothing wider than a phone, both schemes legible."""

import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="Debian's chromium is not installed (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="the playwright client is not installed")
    with sync.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=["digits_page", "hostile_page", "table_page"])
def page_file(request, tmp_path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(request.getfixturevalue(request.param), encoding="utf-8")
    return path


class Seen:
    """An open page with everything it asked for and complained about."""

    def __init__(self, browser, path: Path, *, width=1280, scheme="light"):
        self.requests, self.complaints = [], []
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()


def test_no_request_and_no_complaint(browser, page_file):
    with Seen(browser, page_file) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        seen.page.wait_for_timeout(100)
        assert [url for url in seen.requests if not url.startswith("data:")] == [page_file.as_uri()]
        assert seen.complaints == []


def test_served_over_http_it_asks_for_nothing_more(browser, page_file):
    page = browser.new_page()
    asked = []

    def answer(route):
        asked.append(route.request.url)
        route.fulfill(body=page_file.read_text(encoding="utf-8"), content_type="text/html")

    page.route(re.compile("^https?:"), answer)
    page.goto("http://report.invalid/report.html")
    page.wait_for_timeout(200)
    page.close()
    assert asked == ["http://report.invalid/report.html"]


def test_hostile_text_does_nothing(browser, tmp_path, hostile_page):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    with Seen(browser, path) as seen:
        assert seen.page.title() == "<script>document.title='owned'</script>"
        assert seen.page.evaluate("document.scripts.length") == 0
        assert seen.complaints == []


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_no_horizontal_scrolling(browser, page_file, width):
    with Seen(browser, page_file, width=width) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_picture_is_there_and_named(browser, tmp_path, digits_page):
    path = tmp_path / "report.html"
    path.write_text(digits_page, encoding="utf-8")
    with Seen(browser, path) as seen:
        broken = seen.page.evaluate("[...document.images].filter(i => !i.naturalWidth || !i.alt).length")
        assert broken == 0
        box = seen.page.locator("img").first.bounding_box()
        assert 60 < box["width"] < 120 and abs(box["width"] - box["height"]) < 3


LUMINANCE = """
() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = parse(c).map(v => linear(v / 255));
                       return .2126 * r + .7152 * g + .0722 * b; };
  const page = getComputedStyle(document.body).backgroundColor;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = {};
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.textContent.trim() || node.parentElement.closest('title, desc')) continue;
    const style = getComputedStyle(node.parentElement);
    const svg = node.parentElement.closest('svg');
    const colour = svg ? style.fill : style.color;
    let behind = page;
    for (let e = node.parentElement; e; e = e.parentElement) {
      const b = getComputedStyle(e).backgroundColor;
      if (b && !b.endsWith(', 0)')) { behind = b; break; }
    }
    const [a, b] = [light(colour), light(behind)].sort((x, y) => y - x);
    found[colour + ' on ' + behind] = (a + .05) / (b + .05);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(browser, page_file, scheme):
    with Seen(browser, page_file, scheme=scheme) as seen:
        contrast = seen.page.evaluate(LUMINANCE)
        assert {pair: ratio for pair, ratio in contrast.items() if ratio < 4.5} == {}


def background(seen) -> str:
    return seen.page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_scheme_follows_the_system_the_switch_and_the_paper(browser, tmp_path, digits_page):
    path = tmp_path / "report.html"
    path.write_text(digits_page, encoding="utf-8")
    light, dark = "rgb(252, 252, 251)", "rgb(20, 22, 25)"
    with Seen(browser, path, scheme="dark") as seen:
        assert background(seen) == dark
        seen.page.get_by_label("light").check()
        assert background(seen) == light
        seen.page.get_by_label("dark").check()
        assert background(seen) == dark
        line = "getComputedStyle(document.querySelector('.chart [stroke=\"#1f5f9e\"]')).stroke"
        assert seen.page.evaluate(line) == "rgb(125, 184, 242)"
        seen.page.emulate_media(media="print")
        assert background(seen) == "rgb(255, 255, 255)"
    with Seen(browser, path) as seen:
        assert background(seen) == light


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, tmp_path, digits_page):
    path = tmp_path / "report.html"
    path.write_text(digits_page, encoding="utf-8")
    with Seen(browser, path) as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the report"
        assert seen.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
