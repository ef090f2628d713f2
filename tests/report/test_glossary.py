import json
import re
from html import unescape
from pathlib import Path

from bench.records.base import plain
from bench.records.results import Verdict
from bench.records.trace import Regime
from bench.report.build import make_report
from bench.report.markdown import markdown
from bench.report.text.fill import with_text
from bench.report.text.glossary import GLOSSARY

OTHER_WORDS = r"memory-bound|not decided|penalty class|…"
PAGE = Path(__file__).parents[2] / "docs/glossary.md"


def test_a_reader_has_at_most_fifteen_terms_to_learn():
    assert len(GLOSSARY) <= 15


def test_the_page_of_docs_has_the_same_terms():
    rows = re.findall(r"^\| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {"term": "meaning"} | GLOSSARY


def test_a_report_has_the_same_terms_and_one_word_for_each_thing(quick_run):
    results = make_report(quick_run, "test")
    page = unescape((quick_run / "report.html").read_text()).replace("\u00a0", " ")
    terms = page.partition('<dl class="terms">')[2].partition("</dl>")[0]
    found = re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", terms)
    assert dict(found) == GLOSSARY
    assert not re.findall(OTHER_WORDS, page + markdown(results))


def test_results_with_penalties_have_one_word_for_each_thing(placed_results):
    assert not re.findall(OTHER_WORDS, markdown(placed_results) + json.dumps(plain(with_text(placed_results))))


def test_every_verdict_and_regime_is_explained():
    text = " ".join([*GLOSSARY, *GLOSSARY.values()])
    assert all(str(name) in text for name in [*Verdict, *Regime])
