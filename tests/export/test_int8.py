"""Which layers stay in fp32 if all of them in 8 bits together are too far off."""

from collections.abc import Sequence

import pytest

from export.int8 import choose_fp32_layers

LAYERS = ["early", "middle", "late"]
ERRORS = {"early": 4e-4, "middle": 1e-4, "late": 4e-5}  # 40, 46 and 50 dB


def error(layers: Sequence[str]) -> float:
    return sum(ERRORS[layer] for layer in layers)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(38, []), (40, ["early"]), (44, ["early"]), (47, ["early", "middle"])],
)
def test_the_layers_that_err_most_stay_in_fp32(wanted: float, kept: list[str]) -> None:
    assert list(choose_fp32_layers(LAYERS, error, wanted)) == kept


def test_the_error_of_each_layer_alone_is_given_in_decibels() -> None:
    assert choose_fp32_layers(LAYERS, error, 44) == {"early": pytest.approx(40)}


def test_errors_that_do_not_add_up_are_found_by_quantizing_the_layers_together() -> None:
    def entangled(layers: Sequence[str]) -> float:
        return error(layers) * (1 if len(layers) == 1 else 10)

    assert list(choose_fp32_layers(LAYERS, entangled, 45)) == ["early", "middle"]


def test_if_no_layer_would_be_left_the_gate_decides() -> None:
    assert choose_fp32_layers(LAYERS, error, 60) == {}
