import re

import pytest

from t2i_engine.backend_selection import backend_status
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Status
from t2i_engine.errors import OptionError
from t2i_engine.formats import FORMATS, GENERATOR, TEXT_ENCODER, Differences, Format, find, load

every_format = pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)


def test_names_are_unique() -> None:
    assert len({row.name for row in FORMATS}) == len(FORMATS)


@every_format
def test_row_is_complete(row: Format) -> None:
    assert row.files.keys() == {TEXT_ENCODER, GENERATOR}
    assert row.devices
    assert row.reason
    assert find(row.name) is row


@every_format
def test_builder_and_backend_exist(row: Format) -> None:
    assert callable(load(row.builder))
    assert callable(find_backend(row.backend).open_runner)
    assert isinstance(backend_status(row.backend), Status)


def test_unknown_format_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(
        OptionError, match=re.escape(f"unknown format 'onx' (did you mean 'onnx'?); available: {FORMATS[0].name}, ")
    ):
        find("onx")


@pytest.mark.parametrize(
    ("found", "within"),
    [
        (Differences(0.1, 0.2, 1), True),
        (Differences(0.11, 0.2, 1), False),
        (Differences(0.1, 0.21, 1), False),
        (Differences(0.1, 0.2, 2), False),
        (Differences(float("nan"), 0.0, 0), False),
    ],
)
def test_differences_are_within_their_bounds_or_not(found: Differences, within: bool) -> None:
    assert found.within(Differences(0.1, 0.2, 1)) is within


@pytest.mark.parametrize(("psnr", "within"), [(35.0, True), (41.0, True), (34.9, False), (None, False)])
def test_a_ratio_is_at_least_its_bound_and_what_has_no_bound_may_be_anything(psnr: float | None, within: bool) -> None:
    assert Differences(0.1, 2.0, 255, psnr).within(Differences(0.1, psnr=35)) is within
