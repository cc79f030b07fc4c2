"""Work on several cores: the same results as on one, in the same order."""

import os
from pathlib import Path

import pytest
from conftest import TEXT, entry, write_results

import evaluate
from gaokao import parallel


def test_calls_about_many_questions_go_to_other_processes_and_come_back_in_order() -> None:
    assert parallel.on_cores(pow, [(number, 2) for number in range(200)], parallel.MANY) == [n * n for n in range(200)]
    assert os.getpid() not in parallel.on_cores(os.getpid, [()] * 40, parallel.MANY)


def test_calls_about_few_questions_stay_in_this_process() -> None:
    assert set(parallel.on_cores(os.getpid, [()] * 40, parallel.MANY - 1)) == {os.getpid()}


def test_scores_and_page_are_the_same_bytes_on_several_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = ["历史", "政治", "英语"]
    entries = [
        entry(
            id=f"r{n}",
            subject=subjects[n % 3],
            text=TEXT.replace("乙", "甲乙丙丁"[n % 4]),
            课本内容=f"第{n}段说的是第{n}件事。",
        )
        for n in range(60)
    ]
    path = write_results(tmp_path / "questions.json", entries)
    evaluate.main([str(path)])
    names = ["scores.json", "report.html"]
    one = [(tmp_path / name).read_bytes() for name in names]
    monkeypatch.setattr(parallel, "MANY", 2)
    evaluate.main([str(path)])
    assert [(tmp_path / name).read_bytes() for name in names] == one
