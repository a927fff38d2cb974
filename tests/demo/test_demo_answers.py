"""What the page says, without a browser and without Gradio."""

from __future__ import annotations

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from hf_emktd.data import MediaError
from hf_emktd.demo import UploadLimits, render_answers, render_refusal
from hf_emktd.demo.server import respond
from hf_emktd.hub import predict_clip, segment_clip

LIMITS = UploadLimits()


class Page(HTMLParser):
    """The text that a browser shows, and the elements it makes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.elements = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.elements[-1][0] != "style" and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_events_are_those_of_the_model_by_sense(student, media):
    page = Page(respond(media["clip"], [student], LIMITS))
    expected = predict_clip(student.model, student.processor, media["clip"])
    for title, modality in (("Sound and picture", "both"), ("Sound only", "audio"), ("Picture only", "visual")):
        shown = [part for label, score in expected.top[modality] for part in (label, f"{100 * score:.1f} %")]
        begin = page.texts.index(title) + 1
        assert page.texts[begin : begin + len(shown)] == shown
    assert "clip.mp4" in page.texts and f"{student.parameters:,} parameters" in page.text
    assert "entropy" not in page.text and "Teacher" not in page.text and "Window by window" not in page.text
    assert len(page.of("img")) == 5  # some frames of the clip


def test_teacher_answers_beside_the_student_with_its_entropies(student, teacher, media):
    page = Page(respond(media["clip"], [student, teacher], LIMITS))
    share = 100 * student.parameters / teacher.parameters
    assert f"The student has {share:.1f} % of the teacher's parameters" in page.text
    assert page.text.count(" ms a clip") == 2 and "Student: small<b>" in page.texts and "Teacher: large" in page.texts
    entropies = re.findall(r"entropy ([\d.]+) nats, weight ([\d.]+)", page.text)
    assert len(entropies) == 3
    for entropy, weight in entropies:
        assert float(weight) == pytest.approx(np.exp(-float(entropy) / 2), abs=0.01)  # one window: not a mean


def test_long_files_have_a_timeline(student, media):
    page = Page(respond(media["scene"], [student], LIMITS))
    assert "Window by window" in page.texts and sum(" s: " in text for text in page.texts) == 6


def test_masks_lie_over_the_film(segmenter, media):
    page = Page(respond(media["scene"], [segmenter], LIMITS))
    (film,) = page.of("video")
    kind, _, content = film["src"].partition(";base64,")
    assert kind == "data:video/mp4"
    path = media["scene"].with_name("overlay.mp4")
    path.write_bytes(base64.b64decode(content))
    with av.open(path) as container:
        (stream,) = container.streams.video
        assert (stream.width, stream.height, len(container.streams.audio)) == (48, 32, 1)
    shares = segment_clip(segmenter.model, segmenter.processor, media["scene"], seconds=2).shares
    begin = page.texts.index("Share of the picture that sounds") + 1
    assert page.texts[begin + 1 : begin + 4 : 2] == [f"{100 * share:.1f} %" for share in shares]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("soundless", "No sound: answered from the picture"),
        ("silent", "No sound, the stream is silent: answered from the picture"),
        ("pictureless", "No picture: answered from the sound"),
    ],
)
def test_a_missing_sense_is_marked(student, media, name, note):
    page = Page(respond(media[name], [student], LIMITS))
    assert note in page.texts and "Sound and picture" not in page.texts


class TestRefusals:
    def refused(self, path: Path | None, respondent, limits: UploadLimits = LIMITS) -> str:
        page = Page(respond(path, [respondent], limits))
        assert [attributes["role"] for attributes in page.of("p")] == ["alert"] and not page.of("img")
        return page.text

    def test_say_what_is_wrong_with_a_file(self, student, segmenter, media):
        assert self.refused(None, student) == "Choose or record a video first."
        assert self.refused(media["corrupt"], student).startswith("corrupt.mp4 cannot be read")
        assert "is no longer there" in self.refused(media["clip"].with_name("gone.mp4"), student)
        assert "only pictures can be segmented" in self.refused(media["pictureless"], segmenter)

    def test_name_the_limit(self, student, media):
        small = UploadLimits(max_file_mb=0.001)
        assert "is too large" in self.refused(media["clip"], student, small)
        assert "at most 0.001 MB are taken" in self.refused(media["clip"], student, small)
        assert "is too long: 2.0 s, at most 1.5 s are taken" in self.refused(
            media["scene"], student, UploadLimits(max_seconds=1.5)
        )

    def test_hold_for_pictures_that_would_fill_the_memory(self, media, monkeypatch):
        """Ten pictures at once for events, ten a second of film for masks."""
        monkeypatch.setattr("hf_emktd.demo.limits.MAX_HELD_PIXELS", 48 * 32 * 10)
        assert LIMITS.check(media["scene"], "audio-visual-classification") == pytest.approx(2, abs=0.1)
        with pytest.raises(MediaError, match="too large a picture: 48 x 32"):
            LIMITS.check(media["scene"], "audio-visual-segmentation")

    def test_do_not_say_where_the_file_was_kept(self):
        path = Path("/secret/folder/clip.mp4")
        message = Page(render_refusal(MediaError(path, f"cannot be read (Invalid data: '{path}')"))).text
        assert message == "clip.mp4 cannot be read (Invalid data: 'clip.mp4')."


def test_names_and_labels_are_text(student, media, tmp_path):
    """A label of the model, its folder's name and the file's name carry markup."""
    path = tmp_path / "<script>alert(1)</script>\u202e.mp4".replace("/", "_")
    shutil.copy(media["clip"], path)
    html = respond(path, [student], LIMITS)
    page = Page(html)
    assert {tag for tag, _ in page.elements} == {"style", "div", "h3", "img", "b", "span", "i"}
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for attributes in page.of("img"))
    assert "<script>alert(1)<_script>\N{REPLACEMENT CHARACTER}.mp4" in page.texts
    for label in student.model.config.id2label.values():
        assert page.texts.count(label) == 3
    assert "<script" not in render_refusal(MediaError(path, "cannot be read"))


def test_answers_fetch_nothing(student, teacher, media):
    html = respond(media["clip"], [student, teacher], LIMITS)
    assert not re.search(r"https?:|url\(|@import", html)
    assert "alt=" not in render_answers("clip.mp4", 1.0, [student.answer(media["clip"], 1.0)])


@pytest.mark.parametrize("options", [{"max_file_mb": 0}, {"max_seconds": -1}, {"max_seconds": float("inf")}])
def test_limits_out_of_range(options):
    with pytest.raises(ValueError, match="must be positive and finite"):
        UploadLimits(**options)
