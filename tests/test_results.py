from halo_ray.results import round_line, table


def rows() -> list[dict]:
    first = {
        "round": 0, "budget_spent": 0.0, "pixels": 0, "regions": 0, "images_touched": 0, "miou": 0.25,
        "iou": {"road": 0.5, "sky": None}, "accuracy": 0.5, "control_miou": None, "seconds": {"evaluate": 2.0},
    }  # fmt: skip
    second = {
        **first, "round": 1, "budget_spent": 0.0004, "pixels": 180, "regions": 20, "images_touched": 7, "miou": 0.6254,
        "iou": {"road": 0.75, "sky": 0.5}, "control_miou": 0.3, "seconds": {"score": 3.0, "train": 4.2},
    }  # fmt: skip
    return [first, second]


def cells(text: str) -> dict[str, list[str]]:
    """The values of each line by its name, which may hold single spaces."""
    lines = [[part for part in line.split("  ") if part.strip()] for line in text.splitlines()]
    return {line[0].strip(): [value.strip() for value in line[1:]] for line in lines}


def test_table_shows_every_round_in_percent() -> None:
    shown = cells(table(rows()))
    assert shown["round"] == ["0", "1"]
    assert shown["pixels bought"] == ["0", "180"]
    assert shown["share of the pool"] == ["0.0000 %", "0.0400 %"]
    assert shown["mIoU"] == ["25.0", "62.5"]
    assert shown["mIoU without labels"] == ["-", "30.0"]
    assert shown["IoU road"] == ["50.0", "75.0"]
    assert shown["IoU sky"] == ["-", "50.0"]


def test_table_has_no_line_for_a_control_that_was_not_run() -> None:
    records = [{**row, "control_miou": None} for row in rows()]
    assert "without" not in table(records)


def test_miou_star_is_shown_where_the_class_set_has_it() -> None:
    assert "mIoU*" not in table(rows())
    records = [{**row, "miou_star": star} for row, star in zip(rows(), (0.5, 0.725), strict=True)]
    assert cells(table(records))["mIoU*"] == ["50.0", "72.5"]


def test_lines_of_the_table_are_of_one_length() -> None:
    assert len({len(line) for line in table(rows()).splitlines()}) == 1


def test_round_line_says_what_the_round_cost_and_gave() -> None:
    line = round_line(rows()[1], 20)
    for words in ("round 1", "20 regions", "180 pixels", "0.0400 %", "mIoU 62.5 %", "without labels 30.0", "7 s"):
        assert words in line
