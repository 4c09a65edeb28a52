"""docs/data.md, the page of the readers' rules, knows their words; tests/test_documents.py looks up its tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_word_for_a_part_is_in_the_page():
    from cvjax.data.parts import WORDS

    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in page.splitlines() if line.count("|") == 3}
    for part, title in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert {word.strip() for word in rows[title].split(",")} == {word for word in WORDS if WORDS[word] == part}
