"""Every page in a browser: verdict first, nothing cut or covered, legible in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from sweeps.report.trial_row import NO_VALUE
from tests.sweeps.report.example_pages import PAGES, example

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SCREENS = {"desk": (1280, 800), "phone": (390, 844)}
pytestmark = [
    pytest.mark.pages,
    pytest.mark.timeout(120),
    pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}"),
]

LABELS = """() => {
  const found = [];
  for (const figure of document.querySelectorAll("svg")) {
    const frame = figure.getBoundingClientRect();
    const texts = [...figure.querySelectorAll("text")].filter((text) => text.textContent.trim());
    const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([a, x], index) => {
      const isCut = x.left < frame.left - 1 || x.right > frame.right + 1
        || x.top < frame.top - 1 || x.bottom > frame.bottom + 1;
      if (isCut) found.push(`'${a}' is cut`);
      for (const [b, y] of boxes.slice(index + 1)) {
        const width = Math.min(x.right, y.right) - Math.max(x.left, y.left);
        const height = Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top);
        if (width > 1 && height > 3) found.push(`'${a}' and '${b}' overlap`);
      }
    });
  }
  return found;
}"""

CLIPPED = """() => {
  const found = [...document.querySelectorAll("main, main *:not(svg *)")].filter((one) => {
    const look = getComputedStyle(one);
    const isBox = look.display !== "inline" && !["auto", "scroll"].includes(look.overflowX);
    return isBox && one.scrollWidth > one.clientWidth + 1;
  });
  return found.map((one) => `${one.tagName} ${one.textContent.slice(0, 40)}`);
}"""

SILENT = """() => [...document.querySelectorAll("img, svg")]
  .filter((one) => !(one.alt || (one.role === "img" && one.ariaLabel)))
  .map((one) => one.outerHTML.slice(0, 60))"""

UNMARKED = """() => [...document.querySelectorAll(".scroll")]
  .filter((box) => box.classList.contains("wide") !== box.scrollWidth > box.clientWidth)
  .map((box) => box.textContent.slice(0, 60))"""

# Marks and lines need a contrast of 3 (WCAG 1.4.11) with the box that they are drawn on.
FAINT = """() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.03928 ? c / 3294.6
      : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grid = numbers(getComputedStyle(document.querySelector("section"))
    .borderBottomColor.trim());
  const found = new Set();
  for (const mark of document.querySelectorAll(
    "[id*=PathCollection] use, [id*=LineCollection] path, [id*=line2d] > path")) {
    const ground = numbers(getComputedStyle(mark.closest("section")).backgroundColor);
    const look = getComputedStyle(mark);
    const contrasts = [["stroke", "strokeOpacity"], ["fill", "fillOpacity"]]
      .map(([paint, opacity]) => [numbers(look[paint]), look.opacity * look[opacity]])
      .filter(([colour]) => colour.length >= 3)
      .map(([colour, alpha]) => {
        if (colour.slice(0, 3).join() === grid.slice(0, 3).join()) return 21;
        const seen = colour.slice(0, 3).map((c, i) => alpha * c + (1 - alpha) * ground[i]);
        const [low, high] = [light(seen), light(ground)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      });
    if (contrasts.length && Math.max(...contrasts) < 3)
      found.add(`${mark.parentNode.id} ${look.stroke} ${look.fill} ${Math.max(...contrasts)}`);
  }
  return [...found];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    written = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in written.items():
        path.write_text(example(name), encoding="utf-8")
    return written


def opened(browser: Any, path: Path, screen: str, scheme: str) -> tuple[Page, list[str]]:
    """A tab with the page, and the errors of its console."""
    width, height = SCREENS[screen]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    errors = list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    return page, errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read(
    browser: Any, files: dict[str, Path], name: str, screen: str, scheme: str
) -> None:
    page, errors = opened(browser, files[name], screen, scheme)
    verdict = page.locator(".verdict").first.bounding_box()
    assert verdict is not None
    assert verdict["y"] + verdict["height"] <= SCREENS[screen][1]
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    page.wait_for_function(f"({UNMARKED})().length === 0")
    for check in (LABELS, CLIPPED, SILENT, FAINT):
        assert page.evaluate(check) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)["violations"]
    assert [(one["id"], [node["html"][:90] for node in one["nodes"][:3]]) for one in found] == []
    assert errors == []
    page.close()


def test_a_click_on_a_head_sorts_the_table(browser: Any, files: dict[str, Path]) -> None:
    page, errors = opened(browser, files["search"], "desk", "light")
    table = page.locator("section", has_text="Trials on the validation items").locator("table")

    def column(index: int) -> list[str]:
        return table.locator(f"tbody td:nth-child({index})").all_inner_texts()

    table.locator("th", has_text="trial").locator("button").click()
    assert column(1) == [str(number) for number in range(29, -1, -1)]
    table.locator("th", has_text="trial").locator("button").click()
    assert column(1) == [str(number) for number in range(30)]
    assert table.locator("th", has_text="trial").get_attribute("aria-sort") == "ascending"
    score = table.locator("th").nth(1).locator("button")
    score.click()
    shown = [float(text) for text in column(2) if text != NO_VALUE]
    assert shown == sorted(shown, reverse=True)
    assert column(2)[-1] == NO_VALUE
    score.click()
    assert column(2)[-1] == NO_VALUE  # missing values stay last
    assert errors == []
    page.close()
