"""Pages of the studies: tables and figures by code from the committed results, answers by people."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from resemb_ext.study import STUDIES, write_report
from resemb_ext.study.harness import report
from resemb_ext.study.harness.report import ANSWER, RESULTS, Figure, Page, Panel, Table, write_page
from resemb_ext.study.harness.results import Results, load_results

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "study"
COMMITTED = ROOT / "benchmarks" / "results" / "study"
NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])")
LONGEST = 29  # words of a sentence


def between(text: str, markers: tuple[str, str]) -> str:
    """What stands between two markers."""
    return text.split(markers[0])[1].split(markers[1])[0]


def page_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def leaves(value: Any) -> Iterator[float]:
    """All numbers in JSON."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def unfounded(answer: str, results: Results, block: str) -> list[str]:
    """Numbers of an answer that stand neither in what code made of the JSON, as shown, nor among its options.

    Single numbers among the results would not do: of a hundred thousand some four digits are always there.
    """
    shown = {text.replace(",", "") for text in NUMBER.findall(block)}
    told = {abs(x) for x in leaves([results.plan, [piece["config"] for piece in results.pieces.values()]])}
    wrong = []
    for text in NUMBER.findall(answer):
        number = text.replace(",", "")
        bare = number.lstrip("+-")
        forms = {"-": [number], "+": [number, bare]}.get(number[0], [bare, f"+{bare}", f"-{bare}"])
        if not shown.intersection(forms) and float(bare) not in told:
            wrong.append(text)
    return wrong


@pytest.mark.full
def test_committed_pages_and_figures_are_those_of_the_committed_results(tmp_path: Path) -> None:
    for page in DOCS.glob("*.md"):
        shutil.copy(page, tmp_path)
    write_report(COMMITTED, into=tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == sorted(file.name for file in DOCS.iterdir())
    for name in names:
        text, kept = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
        if name.endswith(".svg"):  # another matplotlib draws other bytes of the same numbers
            version = f"Matplotlib v{matplotlib.__version__},"
            text, kept = (t if version in kept else description(t) for t in (text, kept))
        assert text == kept, name


def description(svg: str) -> str:
    """What a figure's file says that it was made of."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def test_every_study_has_a_page_an_answer_and_a_line_of_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert {file.stem for file in DOCS.glob("*.md")} == {*STUDIES, "README"}
    assert {file.stem for file in COMMITTED.glob("*.jsonl")} == set(STUDIES)
    for name, study in STUDIES.items():
        text = page_of(name)
        assert text.startswith(f"# {study.title}\n\n**Question.** {study.question}\n\n## Answer\n\n{ANSWER[0]}\n")
        assert f"[{study.question}]({name}.md)" in index
        assert load_results(COMMITTED, name).plan["protocol"] == study.protocol


@pytest.mark.parametrize("name", STUDIES)
def test_answers_are_short_and_their_numbers_stand_in_the_json(name: str) -> None:
    answer, block = (between(page_of(name), markers) for markers in (ANSWER, RESULTS))
    assert 30 < len(answer.split()) <= 150
    assert not unfounded(answer, load_results(COMMITTED, name), block)


def test_a_number_that_is_not_there_is_found() -> None:
    results = Results({"data": {}}, {"a": {"config": {"rows": 2000}}}, [])
    block = "| +0.0148 [-0.0030, +0.0051] | 19043 | 34 % |"
    right = "+0.0148, 0.0148, [-0.0030, +0.0051], 19,043 and 34 % of 2,000 on ml-1m, in 0.0030."
    assert unfounded(right, results, block) == []
    wrong = "-0.0148, 0.0149, +0.0030, 0.015, 19,044, 3 and 2,001"
    assert unfounded(wrong, results, block) == ["-0.0148", "0.0149", "+0.0030", "0.015", "19,044", "3", "2,001"]


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), ROOT / "docs" / "results.md"], ids=lambda p: p.stem)
def test_sentences_are_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(f"{RESULTS[0]}.*?{RESULTS[1]}", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$|\$\$.*?\$\$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$[^$]+\$", "x", text)
    parts = re.split(r"\n\s*\n|\n(?=\s*[-*|#])|\|", text)
    sentences = [s for part in parts for s in re.split(r"(?<=[.!?])[)*]*\s+", " ".join(part.split()))]
    assert len(sentences) > 5
    assert not [s for s in sentences if len(s.split()) > LONGEST]


def test_results_and_figures_of_all_studies_are_few_and_small() -> None:
    files = [*COMMITTED.iterdir(), *DOCS.glob("*.svg")]
    assert len(files) <= 40 and sum(file.stat().st_size for file in files) < 2_500_000


RESULT = Results(
    {"study": "s", "quick": True, "protocol": {"version": 1, "list": ["a", "b"]}, "data": {}, "pieces": ["k", "late"]},
    {"k": {"config": {"x": 1}, "seeds": [3], "data": None, "seconds": 1.0, "versions": {"torch": "2"}, "result": {}}},
    ["late"],
)
PAGE = Page(
    [Table("T", ("a", "b"), [("1", "2")])],
    [Figure("f", "It shows.", [Panel(t, lambda axes: axes.plot([0, 1], [1, 0])) for t in "abc"], ["k"], columns=2)],
)


def test_prose_of_a_page_is_kept_and_the_block_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.md"
    write_page(PAGE, RESULT, path, title="Title", question="Is it so?")
    text = path.read_text()
    assert text.startswith("# Title\n\n**Question.** Is it so?\n\n## Answer\n") and "A quick run" in text
    assert "Not run: `late`" in text and "- list: a; b" in text and "| 1 | 2 |" in text and "![s-f](s-f.svg)" in text
    figure = (tmp_path / "s-f.svg").read_bytes()
    told = json.loads(description(figure.decode()))
    assert told["pieces"] == ["k"] and told["config"] == {"x": 1} and told["seeds"] == [3]
    written = text.replace(ANSWER[0], f"{ANSWER[0]}\nYes: 12 of 12.") + "\nMore by hand.\n"
    path.write_text(written)
    for _ in range(2):
        write_page(PAGE, RESULT, path, title="Other", question="Other?")
        assert path.read_text() == written and (tmp_path / "s-f.svg").read_bytes() == figure
    write_page(Page([Table("T", ("a",), [("9",)])]), RESULT, path, title="", question="")
    changed = path.read_text()
    assert "| 9 |" in changed and "| 1 | 2 |" not in changed and changed.endswith("\nMore by hand.\n")
    assert "Yes: 12 of 12." in changed


@pytest.mark.parametrize("text", ["", RESULTS[0], f"{RESULTS[1]} {RESULTS[0]}", " ".join([*RESULTS, *RESULTS])])
def test_a_page_without_its_markers_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"must have the lines .* without the file, a page is begun anew"):
        write_page(PAGE, RESULT, path, title="", question="")
    assert path.read_text() == text


def test_options_of_several_pieces_are_told_as_one() -> None:
    one, other = {"a": 1, "in": {"b": 2, "c": [3]}}, {"a": 1, "in": {"b": 4, "c": [3]}, "d": None}
    merged = {"a": 1, "in": {"b": [2, 4], "c": [3]}, "d": None}
    assert report._merged([one, other, one]) == merged
    assert report._merged([one, one]) == one and report._merged([]) is None
