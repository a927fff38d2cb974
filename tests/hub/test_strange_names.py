"""Labels, clips, folders and data sets whose names carry markup, codes for terminals or formulas."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_emktd.hub import ClipPrediction, DataFacts, DistillationSummary, ModelFacts, write_card
from hf_emktd.plain_text import in_code, in_markdown, visible
from hf_emktd.training.refusals import refusals_in_one_line

NAMES = {
    "html": "<script>alert(1)</script>",
    "image": "![x](https://elsewhere/x.png)",
    "link": "[click](javascript:alert(1))",
    "heading": "a\n# heading\n---\nlicense: mit",
    "fence": "a\n```\nrm -rf\n```",
    "table": "a | b\n| c |",
    "terminal": "\x1b[2J\x1b]0;owned\x07red\x9b31m",
    "direction": "abc\u202egpj.exe",
    "format": "{summary.__class__} %s %(x)n {{ 7 * 7 }} {% for x in y %}",
    "formula": '=HYPERLINK("http://elsewhere","click")',
    "surrogate": "\udcff",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_card_shows_them_as_they_are(summary, name, tmp_path):
    """No heading, block, HTML, link or metadata but those of the template."""
    plain = _card(summary, "name", tmp_path)
    strange = _card(summary, name, tmp_path)
    assert len(re.findall("^```", strange, re.M)) == len(re.findall("^```", plain, re.M))
    for marks in (r"^#+ ", r"^---$", r"^\|", r"(?<!\\)\]\(", r"(?<!\\)<", r"(?<!\\)!\["):
        assert len(re.findall(marks, _text(strange), re.M)) == len(re.findall(marks, _text(plain), re.M)), marks
    columns = {_columns(line) for line in _text(plain).splitlines()}
    assert {_columns(line) for line in _text(strange).splitlines()} <= columns
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", strange)
    assert _metadata(strange).keys() == _metadata(plain).keys()
    assert "49" not in strange.split("7 * 7")[-1][:4]


def _card(summary: DistillationSummary, name: str, folder: Path) -> str:
    strange = dataclasses.replace(
        summary,
        student=dataclasses.replace(summary.student, name=name.replace("/", "_")),
        teacher=ModelFacts(name.replace("/", "_"), 10**6, architecture=name),
        data=DataFacts(name, clips={name: 3}, left_out={name: {"missing": 1}}, manifest_hash=name),
        hyper_parameters={"learning_rate": 0.1, "dataset": name, name: name},
        entropy_statistics={name: {"entropy": 0.1, name: name}},
        command=f"python scripts/distill.py --dataset {name!r} {name}",
    )
    write_card(strange, folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def _metadata(card: str) -> dict:
    return yaml.safe_load(card.removeprefix("---\n").split("\n---\n", 1)[0])


def _text(card: str) -> str:
    """Without metadata, blocks of code and spans of code."""
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", card.split("\n---\n", 1)[1], flags=re.S | re.M).replace("\\`", "")


def _columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_terminal_is_sent_no_codes(name, capsys):
    table = ClipPrediction(Path(name), {"both": [(name, 0.5)], "audio": [(name, 0.5)]}).table()
    with pytest.raises(SystemExit) as end, refusals_in_one_line():
        raise ValueError(f"there is no label {name}")
    for text in (table, str(end.value)):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    assert str(end.value).isprintable()


def test_a_label_without_marks_stays_as_it_is():
    name = "playing_the_piano, 2nd (naïve), 100 % 犬"
    assert visible(name) == in_markdown(name) == name and in_code(name) == f"`{name}`"


def test_predict_prints_a_clip_of_a_strange_name(model, processor, tmp_path):
    """As a program: the name comes from the disk, the message from the reader of the file."""
    clip = tmp_path / "\x1b[31m<b>clip=1+1.mp4"
    clip.write_bytes(b"nothing")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    script = Path(__file__).parents[2] / "scripts" / "predict.py"
    command = [sys.executable, script, clip, "--model", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr
    assert "[31m<b>clip=1+1.mp4: cannot be read" in done.stdout
