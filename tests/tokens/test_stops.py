from itertools import combinations

import pytest

from smg.tokens.stops import StopStrings


def taken(stops: list[str], pieces: list[str], *, include: bool = False) -> tuple[str, str | None]:
    strings = StopStrings(stops, include=include)
    text = "".join(map(strings.feed, pieces))
    return text + strings.finish(), strings.matched


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["END"], "one END two", ("one ", "END")),
        (["END"], "one EN", ("one EN", None)),
        (["abcd", "bc"], "xabcd", ("xa", "bc")),
        (["bc", "abc"], "xabcd", ("x", "abc")),
        (["aab"], "aaab", ("a", "aab")),
        (["\n\n", "\n"], "a\n\nb", ("a", "\n")),
        ([""], "text", ("text", None)),
    ],
)
def test_the_first_complete_stop_string_ends_the_text_at_any_cut(
    stops: list[str], text: str, expected: tuple[str, str | None]
) -> None:
    assert taken(stops, [text]) == expected
    assert taken(stops, list(text)) == expected
    for i, j in combinations(range(len(text) + 1), 2):
        assert taken(stops, [text[:i], text[i:j], text[j:]]) == expected


def test_a_stop_string_is_kept_when_asked_for() -> None:
    assert taken(["END"], ["one E", "ND two"], include=True) == ("one END", "END")


def test_only_what_may_begin_a_stop_string_is_held() -> None:
    strings = StopStrings(["</stop>"])
    assert [strings.feed(piece) for piece in ("a <", "/s", "x", " b")] == ["a ", "", "</sx", " b"]
