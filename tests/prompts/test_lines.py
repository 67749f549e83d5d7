"""Lines of a text field: which of them are the text of a frame."""

from __future__ import annotations

import pytest

from animatediff.errors import UserError
from animatediff.prompts.lines import TravelText, read_travel


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16:9 photo of a fox", TravelText({0: "16:9 photo of a fox"}, "", "")),
        ("4:3\n12:30, at night", TravelText({0: "4:3, 12:30, at night"}, "", "")),
        ("16:9 photo\n0: spring\n8: summer", TravelText({0: "spring", 8: "summer"}, "16:9 photo", "")),
        ("0: spring\n8 : summer\n16:9 photo", TravelText({0: "spring", 8: "summer"}, "", "16:9 photo")),
        ("0=spring\n16:9 photo", TravelText({0: "spring"}, "", "16:9 photo")),
        ("0:1girl\n8:2 girls", TravelText({0: "1girl", 8: "2 girls"}, "", "")),
        ("0:2 dogs\n8:3 dogs", TravelText({0: "2 dogs", 8: "3 dogs"}, "", "")),
        ("0: 2 dogs\n8: 3 dogs", TravelText({0: "2 dogs", 8: "3 dogs"}, "", "")),
        ('"0":"2 dogs"\n"8":"3 dogs"', TravelText({0: "2 dogs", 8: "3 dogs"}, "", "")),
    ],
)
def test_ratios_and_times_are_no_frames(text: str, expected: TravelText) -> None:
    assert read_travel(text) == expected


def test_a_ratio_between_frames_is_said_with_how_to_write_it() -> None:
    with pytest.raises(UserError, match=r"line 2, '4:2 dogs', has no frame; write it as in 4: 2 dogs, or above or"):
        read_travel("0: spring\n4:2 dogs\n8: summer")
