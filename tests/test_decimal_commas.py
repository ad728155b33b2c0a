"""What reading numbers with decimal commas promises: found where it is sure, refused where not."""

import numpy as np
import pytest
from messages import naming
from test_readers import LABELS, VALUES, assert_wide, lines, series_of

from rnnopt.config.errors import UserError


def german(separator, end="\n", start=""):
    """`VALUES` as spreadsheets with decimal commas write them, the label last."""
    rows = [
        [*(f"{v:g}".replace(".", ",") for v in r), w] for w, r in zip(LABELS, VALUES, strict=True)
    ]
    return start + end.join(separator.join(row) for row in [[*"abcd", "kind"], *rows]) + end


@pytest.mark.parametrize("separator", ["\t", ";"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\ufeffsep=SEPARATOR\r\n"])
def test_decimal_commas_are_found_in_what_spreadsheets_write(tmp_path, separator, start):
    path = tmp_path / "a.csv"
    content = german(separator, "\r\n", start.replace("SEPARATOR", separator))
    path.write_bytes(content.encode())
    found = series_of(path, label="kind")
    assert_wide(found)
    assert found.notes == ("decimal commas",)
    assert_wide(series_of(path, label="last", decimal=","))


def test_decimal_commas_between_blanks_or_in_quotes_can_be_said(tmp_path):
    blanks = lines(tmp_path / "a.txt", "1 0,5 1,25", "0 2,5 -1,0", "1 ,5 1,5e1")
    assert series_of(blanks, decimal=",").series[2][:, 0].tolist() == [0.5, 15]
    with pytest.raises(UserError, match=naming("'5 1'", "--decimal")):
        series_of(blanks, header="no")
    quoted = lines(tmp_path / "b.csv", '1,"0,5","1,25"', '0,"2,5","-1,0"')
    assert series_of(quoted, decimal=",").series[1][:, 0].tolist() == [2.5, -1]
    with pytest.raises(UserError, match="got '-1,0' .pass --decimal ,|got '2,5' .pass --decimal ,"):
        series_of(quoted)


def test_targets_times_and_files_of_a_folder_have_decimal_commas_too(tmp_path):
    rows = ["id;t;x;target", "a;0,5;1,5;2,5", "a;0,25;3;2,5", "b;1;2;3"]
    found = series_of(lines(tmp_path / "a.csv", *rows), label="target")
    assert found.targets.tolist() == [2.5, 3]
    assert found.series[0][:, 0].tolist() == [3, 1.5]
    for name in ("up", "down"):
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "g" / name).mkdir(parents=True)
        lines(tmp_path / "f" / name / "1.csv", "x;y", "1,5;2", "3;4,25")
    found = series_of(tmp_path / "f")
    np.testing.assert_array_equal(found.series[0], [[1.5, 2], [3, 4.25]])
    assert found.notes == ("decimal commas",)
    lines(tmp_path / "g" / "up" / "1.csv", "1,5", "2,25")
    lines(tmp_path / "g" / "down" / "1.csv", "3", "4,5")
    found = series_of(tmp_path / "g", decimal=",")
    assert [one.tolist() for one in found.series] == [[[3], [4.5]], [[1.5], [2.25]]]


def test_names_keep_their_commas(tmp_path):
    found = series_of(lines(tmp_path / "a.csv", "label;0.1;0,2", "u;1,5;2", "v;3;4,5"))
    assert found.table.steps == ("0.1", "0,2")
    assert found.series[0][:, 0].tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("rows", "targets", "first"),
    [
        (["1,2;0.5;7", "3,4;1.5;8"], ["1,2", "3,4"], [0.5, 7]),  # points elsewhere: words
        (["a;1;2", "b;3;4"], ["a", "b"], [1, 2]),
        (["x, y;1;2", "z, w;3;4"], ["x, y", "z, w"], [1, 2]),
    ],
)
def test_commas_that_are_none_before_decimals_stay(tmp_path, rows, targets, first):
    found = series_of(lines(tmp_path / "a.csv", *rows))
    assert found.targets.tolist() == targets
    assert found.series[0][:, 0].tolist() == first
    assert "decimal commas" not in found.notes


UNCLEAR = {
    "three digits alone": (["u;1,234;2,500", "v;3,000;4,100"], None, "'3,000' may have a decimal"),
    "both": (["u;1.234,50;2,5", "v;3;4"], None, "got '1.234,50' .write numbers without thousands"),
    "a comma among points": (["u;1.5;2,5", "v;3;4"], None, "got '2,5' .pass --decimal , where"),
    "a point among commas": (["u;1,5;2,5", "v;1.234;4"], ",", "line 2, value 2: '1.234' has a poi"),
    "points alone": (["u;1.5;2", "v;3;4"], ",", "line 1, value 2: '1.5' has a point"),
    "in the first line": (["u;1.5;2,5", "v;1,5;2,5"], None, "line 1, value 2: '1.5' has a point"),
    "groups": (["u;1,234,567;2", "v;3;4"], ",", "got '1,234,567' .write numbers without thousands"),
    "groups by points": (["u;1.234.567;2", "v;3;4"], None, "without thousands separators"),
    "groups by blanks": (["u;1 234,5;2,5", "v;3;4"], None, "without thousands separators"),
    "groups by apostrophes": (["u;1'234.5;2.5", "v;3;4"], None, "without thousands separators"),
    "said otherwise": (["u;1,5;2,5", "v;3;4"], ".", "got '1,5' .pass --decimal ,"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_numbers_that_could_be_two_are_refused(tmp_path, case):
    rows, decimal, sentence = UNCLEAR[case]
    with pytest.raises(UserError, match=sentence) as refused:
        series_of(lines(tmp_path / "a.csv", *rows), decimal=decimal, header="no")
    assert "\n" not in str(refused.value)


def test_three_digits_are_decimals_where_another_number_says_so(tmp_path):
    path = lines(tmp_path / "a.csv", "u;1,234;2,500", "v;0,125;4,100")
    assert series_of(path).series[0][:, 0].tolist() == [1.234, 2.5]
    path = lines(tmp_path / "b.csv", "u;1,234;2,500", "v;3,000;4,100")
    assert series_of(path, decimal=",").series[0][:, 0].tolist() == [1.234, 2.5]


def test_a_number_with_a_comma_at_the_end_is_not_taken_for_a_label(tmp_path):
    path = lines(tmp_path / "mixed.csv", "an;1.5;0,25", "aus;2.5;0,75")
    with pytest.raises(UserError, match=r"pass --decimal , where decimals have a comma\)\.$"):
        series_of(path, decimal=".")
