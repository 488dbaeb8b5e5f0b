"""The reader of published vocabularies: plain data comes back, anything else is refused and never run."""

import contextlib
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.safe_pickle import SafePickleError, read_safe_pickle

plain = st.recursive(
    st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "a.pickle"


@settings(deadline=None)
@given(value=plain, protocol=st.integers(0, 5), repeats=st.integers(0, 2))
def test_plain_data_comes_back(file: Path, value: object, protocol: int, repeats: int) -> None:
    value = [value] * repeats  # one object in several places
    file.write_bytes(pickle.dumps(value, protocol))
    assert read_safe_pickle(file) == value


def test_texts_of_python_2_are_texts(file: Path) -> None:
    file.write_bytes(b"\x80\x02]q\x00(U\x05<end>q\x01X\x04\x00\x00\x00birdq\x02M\x34\x12e.")
    assert read_safe_pickle(file) == ["<end>", "bird", 0x1234]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_not_executed(file: Path, tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "executed"
    file.write_bytes(pickle.dumps([["a"], Payload(folder)], protocol))
    with pytest.raises(SafePickleError, match="more than lists, dictionaries, strings and integers"):
        read_safe_pickle(file)
    assert not folder.exists()


@pytest.mark.parametrize("value", [1.5, None, True, b"bytes", {1}, OrderedDict(), Path("a")], ids=repr)
def test_other_types_are_refused(file: Path, value: object) -> None:
    file.write_bytes(pickle.dumps([value], 4))
    with pytest.raises(SafePickleError):
        read_safe_pickle(file)


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_other_bytes_raise_nothing_else(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with contextlib.suppress(SafePickleError):
        read_safe_pickle(file)


@settings(deadline=None)
@given(value=plain, data=st.data())
def test_a_cut_file_is_refused(file: Path, value: object, data: st.DataObject) -> None:
    content = pickle.dumps([value], 2)
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(SafePickleError):
        read_safe_pickle(file)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.",  # a text of 4 GiB
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",  # an integer of 2 GiB
    ],
    ids=["text", "integer"],
)
def test_a_small_file_cannot_ask_for_much_memory(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SafePickleError, match="not a complete pickle"):
        read_safe_pickle(file)


def test_a_small_file_cannot_make_a_large_table(file: Path) -> None:
    file.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"K\x01a.")  # pickle would make one of 64 GiB
    assert read_safe_pickle(file) == [1]


def test_a_file_that_is_too_large_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.safe_pickle.LARGEST_PICKLE", 0)
    file.write_bytes(pickle.dumps([]))
    with pytest.raises(SafePickleError, match="larger than"):
        read_safe_pickle(file)
