"""The cards that lie in model_cards/."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_emktd.hub.model_card import StudentCard

FOLDER = Path(__file__).resolve().parents[2] / "model_cards"
TEMPLATE = "student_card_template.md"
CARDS = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "README.md", FOLDER / TEMPLATE})


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_has_results_and_names_no_place_of_a_machine(path):
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    assert {result.metric_type for result in card.data.eval_results} & {"accuracy", "MJ"}
    assert not [word for word in card.text.split() if word.strip("`'\"(").startswith(("/", "~"))]
    assert f"({path.name})" in (FOLDER / "README.md").read_text()


def test_the_template_is_the_one_in_use():
    assert (FOLDER / TEMPLATE).resolve() == StudentCard.default_template_path.resolve()
