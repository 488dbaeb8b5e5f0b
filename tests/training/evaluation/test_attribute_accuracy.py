import numpy as np
from numpy.typing import NDArray

from tests.training.evaluation.instruments import batch_of
from training.evaluation.attribute_accuracy import ALL_ATTRIBUTES, AttributeAccuracy, AttributeNetwork, Classifier

SEEN = (
    {"kind": "owl", "weather": "snow", "main colour": "red"},
    {"kind": "duck", "weather": "snow", "main colour": "red"},
)


class Sighted(Classifier):
    """Reads what a picture shows from its first pixel."""

    def __init__(self) -> None:
        super().__init__(AttributeNetwork(), {"kind": 0.99})

    def classify(self, pixels: NDArray[np.uint8]) -> list[dict[str, str]]:
        return [SEEN[picture[0, 0, 0]] for picture in pixels]


def pictures(*shown: int) -> NDArray[np.uint8]:
    return np.array(shown, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)


def test_attributes_are_counted_where_they_are_asked_for() -> None:
    accuracy = AttributeAccuracy(Sighted())
    captions = ["a red owl in the snow", "a red duck", "a bird"]
    accuracy.update(batch_of(pictures(0, 0, 1), pictures(0, 1, 1), captions))
    found = accuracy.result().values["attribute_accuracy"]["attributes"]
    assert found == {
        "kind": {"asked": 2, "generated": 50.0, "renders": 100.0},
        "weather": {"asked": 1, "generated": 100.0, "renders": 100.0},
        "main colour": {"asked": 2, "generated": 100.0, "renders": 100.0},
        ALL_ATTRIBUTES: {"asked": 2, "generated": 50.0, "renders": 100.0},
    }


def test_every_batch_counts() -> None:
    accuracy = AttributeAccuracy(Sighted())
    for _ in range(2):
        accuracy.update(batch_of(pictures(0, 0), pictures(0, 0), ["a red owl", "a red owl"]))
    result = accuracy.result()
    found = result.values["attribute_accuracy"]
    assert found["captions"] == found["attributes"]["kind"]["asked"] == 4
    assert "| kind | 4 | 100.0 % | 100.0 % |" in result.markdown
    assert "kind 99.0" in result.markdown
