"""Every page, and the site of docs/, in a real Chromium: nothing serious for axe, and no page that scrolls sideways."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, open_browser
from tests.every_page import every_page
from tests.needs import require_docs

# Axe's source is MPL-2.0; it comes with a package that only the tests install.
AXE = "axe_core_python", "axe.min.js"
PHONE = (390, 844)
RUN = """return axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
    one => [one.impact, one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)]))"""

SITE = ("index", "commands", "keys", "glossary")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return every_page(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the site of docs/ the pages that are made from the code, and one that is written."""
    require_docs()
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(build, cwd=Path(__file__).parents[1], env=quiet, check=True, timeout=600)
    return {name: folder / f"{name}.html" for name in SITE}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def violations(browser: Browser, page: Path) -> list[Any]:
    """What axe calls serious or critical, also in what is folded; on a phone, where more is scrolled."""
    browser.resize(*PHONE, mobile=True)
    browser.open(page.as_uri())
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.run(files(AXE[0]).joinpath(AXE[1]).read_text() + "; window.axe = axe")
    return [one for one in browser.run(RUN) if one[0] in ("serious", "critical")]


def test_axe_finds_nothing_serious(browser, pages):
    found = {name: violations(browser, page) for name, page in pages.items()}
    assert {name: what for name, what in found.items() if what} == {}
    assert len(found) == 12


def test_axe_finds_nothing_serious_on_the_site(browser, site):
    found = {name: violations(browser, page) for name, page in site.items()}
    assert {name: what for name, what in found.items() if what} == {}


def test_axe_finds_what_is_wrong(browser, tmp_path):
    (tmp_path / "bad.html").write_text("<img src='data:,'><p style='color: #ccc'>hardly seen</p>")
    found = {one[1] for one in violations(browser, tmp_path / "bad.html")}
    assert found >= {"image-alt", "color-contrast", "html-has-lang"}


@pytest.mark.parametrize("kind", ["pages", "site"])
def test_no_page_scrolls_sideways(browser, request, kind):
    for name, page in request.getfixturevalue(kind).items():
        for width in (PHONE[0], 800, 1400):
            browser.resize(width, 900, mobile=width == PHONE[0])
            browser.open(page.as_uri())
            assert browser.run("return document.documentElement.scrollWidth") == width, (name, width)
