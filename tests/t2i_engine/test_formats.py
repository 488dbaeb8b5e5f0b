import re
from importlib import import_module

import pytest

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
def test_opener_and_backend_exist(row: Format) -> None:
    assert callable(load(row.opener))
    assert callable(import_module(f"t2i_engine.backends.{row.backend}").status)


def test_unknown_format_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match=re.escape("unknown format 'onx' (did you mean 'onnx'?); there are: onnx")):
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
