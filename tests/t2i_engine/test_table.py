from t2i_engine.table import aligned


def test_the_last_column_is_wrapped_to_the_width() -> None:
    assert aligned([("a", "one two three four five six")], 27) == ["a  one two three four five", "   six"]


def test_long_names_leave_room_for_the_last_column() -> None:
    name = "x" * 100
    assert aligned([(name, "one two three four five")], 98) == [f"{name}  one two three four", " " * 102 + "five"]
