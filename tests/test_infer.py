"""The inference script in this process, on a base of random weights: what it writes, where, and what it refuses."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, completion, listing, running_server
from conftest import TEXT, record_row, save_adapter

import evaluate
import infer_qwen_gaokao
from gaokao import generation, models, results, tiny
from gaokao.errors import Interrupted, UserError
from gaokao.records import load_records
from gaokao.runs import Journal, lock
from gaokao.settings import load_config


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No GPU, one process, and the handler of SIGTERM that was there before."""
    monkeypatch.setattr("gaokao.settings.cuda_gpus", lambda: 0)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def adapter(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(random_base, tmp_path_factory.mktemp("trained") / "gaokao" / "adapter")


Infer = Callable[..., list[str]]


@pytest.fixture
def infer(random_base: Path, write_rows: Callable[..., Path], tmp_path: Path, capsys: Any) -> Infer:
    """Run the script on three short records; gives what it prints."""
    rows = write_rows([record_row(number) for number in range(3)])

    def run(*arguments: str | Path) -> list[str]:
        infer_qwen_gaokao.main(
            [f"--model.base={random_base}", f"--data.test={rows}", f"--output.dir={tmp_path / 'out'}",
             "--generate.max_new_tokens=4", "--generate.attempts=1", "--evaluate.samples=1", *map(str, arguments)]
        )  # fmt: skip
        return str(capsys.readouterr().out).splitlines()

    return run


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_questions_scores_and_failed_checks_are_written_and_said(infer: Infer, tmp_path: Path) -> None:
    printed = infer("--adapter", "none", "--generate.limit", "2")
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    entries = load_json(folder / "questions.json")
    assert [entry["id"] for entry in entries] == ["r0", "r1"]
    assert {entry["adapter"] for entry in entries} == {"none"}
    assert all("sections" in [failed["check"] for failed in entry["failed_checks"]] for entry in entries)
    scores = load_json(folder / "scores.json")
    assert scores["usable"]["passed"] == 0 and scores["usable"]["items"] == 2
    assert (folder / "usable.png").read_bytes().startswith(b"\x89PNG")
    assert list(scores["checks"]) == [name for name, _ in results.ALL_CHECKS]
    assert scores["similarity"]["compared_pairs"] == 2
    for start in ("form      2 questions", "usable    0 of 2", "checks    worst: ", "similarity ", "files     "):
        assert any(line.startswith(start) for line in printed), start
    assert "adapter   none: the bare base model" in printed
    # One when it is finished, and one at the end.
    assert sum("finish reason" in line for line in printed) == 2


def test_auto_takes_the_adapter_of_the_run_and_a_folder_another(infer: Infer, adapter: Path, tmp_path: Path) -> None:
    texts = {}
    run = tmp_path / "out" / "gaokao"
    run.mkdir(parents=True)
    (run / "adapter").symlink_to(adapter)
    infer("--generate.do_sample=false")
    entries = load_json(run / "generated" / "questions.json")
    assert {entry["adapter"] for entry in entries} == {str(run / "adapter")}
    texts["auto"] = [entry["text"] for entry in entries]
    infer("--generate.do_sample=false", "--adapter", adapter, "--output.run=other")
    texts["folder"] = [e["text"] for e in load_json(tmp_path / "out" / "other" / "generated" / "questions.json")]
    infer("--generate.do_sample=false", "--adapter", "none")
    texts["none"] = [e["text"] for e in load_json(run / "generated_base" / "questions.json")]
    assert texts["auto"] == texts["folder"] != texts["none"]


def test_an_adapter_that_is_not_there_is_named_before_anything_is_made(infer: Infer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder; train first"):
        infer()
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_refused(infer: Infer, adapter: Path) -> None:
    with pytest.raises(UserError, match="trained with quantization nf4, not none"):
        infer("--adapter", adapter, "--model.quantization", "none")


def test_earlier_questions_are_set_aside_when_new_ones_begin(infer: Infer, tmp_path: Path) -> None:
    run = tmp_path / "out" / "gaokao"
    infer("--adapter", "none")
    first = (run / "generated_base" / "questions.json").read_bytes()
    # Whatever is refused leaves them where they are.
    with pytest.raises(UserError, match="leave no room"):
        infer("--adapter", "none", "--generate.max_new_tokens=9000")
    assert (run / "generated_base" / "questions.json").read_bytes() == first
    printed = infer("--adapter", "none", "--generate.seed", "5")
    said = "start     a new run (generate.seed was 42, is 5); the earlier questions were moved to"
    assert any(line.startswith(said) for line in printed)
    (aside,) = run.glob("generated_base-*")
    assert (aside / "questions.json").read_bytes() == first
    assert len((run / "generated_base" / "questions.jsonl").read_text(encoding="utf-8").split("\n")) == 4


def test_a_second_process_on_the_same_folder_is_refused(infer: Infer, tmp_path: Path) -> None:
    run = tmp_path / "out" / "gaokao"
    infer("--adapter", "none")
    first = (run / "generated_base" / "questions.json").read_bytes()
    with (
        lock(run / "generated_base", "another command"),
        pytest.raises(UserError, match="generated_base: is in use by another command"),
    ):
        infer("--adapter", "none")
    assert (run / "generated_base" / "questions.json").read_bytes() == first
    assert not list(run.glob("generated_base-*"))
    infer("--adapter", "none", "--restart")


def test_the_folder_is_held_until_the_scores_are_written(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    tried = []

    def while_scoring(*arguments: Any) -> Any:
        with pytest.raises(UserError, match="is in use by python infer_qwen_gaokao.py"), lock(folder, "another"):
            pass
        tried.append(True)
        return evaluate.summarize(*arguments)

    monkeypatch.setattr(infer_qwen_gaokao, "summarize", while_scoring)
    infer("--adapter", "none")
    assert tried


def test_sigterm_keeps_the_questions_that_are_finished(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Journal.add

    def then_stop(lines: Journal, entry: dict[str, Any]) -> None:
        add(lines, entry)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "add", then_stop)
    with pytest.raises(Interrupted, match="1 of 3 questions are written and kept in .*; the same command goes on"):
        infer("--adapter", "none")
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    assert {path.name for path in folder.iterdir()} == {"questions.jsonl", "run.json"}
    assert len(results.read_results(folder / "questions.jsonl")) == 1


def test_the_last_line_says_that_the_tiny_model_was_used(
    infer: Infer, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert infer("--adapter", "none")[-1].startswith("files ")
    # The built-in base takes minutes to make.
    monkeypatch.setattr(tiny, "build", lambda *_: random_base)
    assert "the tiny model was used" in infer("--adapter", "none", "--model.base=builtin:tiny")[-1].replace(
        "built-in ", ""
    )


def test_the_compiled_forward_is_used_where_it_is_asked_for_and_only_there(
    infer: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(models, "compile_forward", compiled.append)
    infer("--adapter", "none", "--generate.limit", "1")
    assert compiled == []
    infer("--adapter", "none", "--generate.limit", "1", "--restart", "--generate.torch_compile=true")
    assert len(compiled) == 1


def test_rounds_and_seed_of_the_chance_level_and_sampling_options_are_passed_on(infer: Infer, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    infer("--adapter", "none", "--evaluate.chance_rounds", "1")
    assert load_json(folder / "scores.json")["similarity"]["compared_pairs"] == 3
    first = [entry["text"] for entry in load_json(folder / "questions.json")]
    infer("--adapter", "none", "--generate.seed", "7")
    assert [entry["text"] for entry in load_json(folder / "questions.json")] != first
    infer("--adapter", "none", "--generate.max_new_tokens", "2")
    assert max(entry["completion_tokens"] for entry in load_json(folder / "questions.json")) <= 2


@pytest.mark.parametrize("trusted", [True, False])
def test_python_files_of_a_base_are_fetched_only_where_they_are_trusted(
    infer: Infer, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    seen = []
    locate = models.locate_base

    def noting(*arguments: Any) -> Path:
        seen.append(arguments[5])
        return locate(*arguments)

    monkeypatch.setattr(models, "locate_base", noting)
    infer("--adapter", "none", f"--model.trust_remote_code={str(trusted).lower()}")
    assert seen == [trusted]


def test_an_adapter_on_another_quantization_works_where_asked_for_and_the_results_say_so(
    infer: Infer, adapter: Path, tmp_path: Path
) -> None:
    printed = infer("--adapter", adapter, "--model.quantization=none", "--generate.other_quantization=true")
    entries = load_json(tmp_path / "out" / "gaokao" / "generated" / "questions.json")
    said = f"{adapter} (trained with quantization nf4, used with none)"
    assert {entry["adapter"] for entry in entries} == {said}
    assert any(line.startswith(f"adapter   {said}, merged") for line in printed)


def test_the_same_command_again_does_nothing_and_other_inputs_begin_anew(infer: Infer, tmp_path: Path) -> None:
    infer("--adapter", "none")
    (line,) = infer("--adapter", "none")
    assert line.startswith("finished  ") and "--restart" in line
    # How many rows stand in a batch is no input: the same questions would come out.
    assert infer("--adapter", "none", "--generate.batch_size=1")[0].startswith("finished  ")
    printed = "\n".join(infer("--adapter", "none", "--generate.top_p=0.5", "--model.quantization=none"))
    assert 'model.quantization was "nf4", is "none"; generate.top_p was 0.9, is 0.5' in printed


def test_attempts_and_several_questions_of_a_record(infer: Infer, tmp_path: Path) -> None:
    infer("--adapter", "none", "--generate.attempts=2", "--generate.questions_per_record=2")
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    entries = load_json(folder / "questions.json")
    assert [entry["id"] for entry in entries] == ["r0-1", "r0-2", "r1-1", "r1-2", "r2-1", "r2-2"]
    assert [len(entry["attempts"]) for entry in entries] == [2] * 6
    assert load_json(folder / "scores.json")["attempts"]["all"] == {
        "items": 6, "usable_first": 0, "usable": 0, "drafts": 12
    }  # fmt: skip
    assert len({entry["text"] for entry in entries}) >= 3


def test_a_chapter_is_enough(infer: Infer, tmp_path: Path) -> None:
    chapter = tmp_path / "洋务运动.txt"
    chapter.write_text(
        "\n\n".join(f"第{n}段。" + "洋务派创办了一批军事工业和民用企业。" * 20 for n in range(4)), "utf-8"
    )
    infer("--adapter", "none", "--textbook", chapter, "--subject", "历史", "--type", "单选题", "--count", "3")
    entries = load_json(tmp_path / "out" / "gaokao" / "generated_base_洋务运动" / "questions.json")
    assert [(entry["subject"], entry["type"]) for entry in entries] == [("历史", "单选题")] * 3
    assert all(
        entry["passage"].startswith("第") and entry["课本内容"] in chapter.read_text("utf-8") for entry in entries
    )
    with pytest.raises(UserError, match="--subject"):
        infer("--adapter", "none", "--textbook", chapter, "--type", "单选题")


def test_a_server_writes_instead_and_no_base_is_looked_for(
    infer: Infer, tmp_path: Path, plain_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("a base was looked for")

    monkeypatch.setattr(models, "choose_base", refuse)
    with running_server() as server:
        server.models = [listing("gaokao")]
        server.respond = lambda seen: Reply(body=completion(TEXT))
        options = ["--generate.engine=openai", f"--generate.base_url={server.url}", "--generate.served_model=gaokao"]
        printed = infer(*options)
        assert any(line.startswith("finished  ") for line in infer(*options))
        assert len(server.seen) == 3 and server.seen[0].body["max_tokens"] == 4
    entries = load_json(tmp_path / "out" / "gaokao" / "generated" / "questions.json")
    assert {entry["adapter"] for entry in entries} == {f"gaokao at {server.url}"}
    # The second and third repeat the first.
    assert [entry["usable"] for entry in entries] == [True, False, False]
    assert not any("tiny" in line for line in printed)


def test_a_run_that_was_stopped_between_questions_and_scores_gets_them(infer: Infer, tmp_path: Path) -> None:
    infer("--adapter", "none")
    folder = tmp_path / "out" / "gaokao" / "generated_base"
    scores, questions = (folder / "scores.json").read_bytes(), (folder / "questions.json").read_bytes()
    (folder / "scores.json").unlink()
    (folder / "report.html").unlink()
    printed = infer("--adapter", "none")
    assert printed[0].startswith("finished  ") and any(line.startswith("usable    ") for line in printed)
    assert (folder / "scores.json").read_bytes() == scores and (folder / "report.html").exists()
    assert (folder / "questions.json").read_bytes() == questions


def test_greedy_decoding_is_not_tried_again(infer: Infer, tmp_path: Path) -> None:
    infer("--adapter", "none", "--generate.do_sample=false", "--generate.attempts=3")
    entries = load_json(tmp_path / "out" / "gaokao" / "generated_base" / "questions.json")
    assert [len(entry["attempts"]) for entry in entries] == [1, 1, 1]
    with pytest.raises(UserError, match="questions_per_record = 2 needs generate.do_sample: true"):
        infer("--adapter", "none", "--generate.do_sample=false", "--generate.questions_per_record=2")


def test_processes_with_different_memory_take_the_plan_of_the_smallest(
    random_base: Path, write_rows: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the other process says of its own memory.
    monkeypatch.setattr(generation, "gather_object", lambda sizes: [*sizes, 2])
    rows = write_rows([record_row(number) for number in range(5)])
    arguments = [f"--model.base={random_base}", f"--output.dir={tmp_path}", "--generate.max_new_tokens=4"]
    engine = infer_qwen_gaokao.local(load_config(arguments, "x.py"), None)
    engine.prompts(load_records(rows, "generate"))
    assert engine.load({}) == {"batch_size": 2}
    assert engine._writer.planned == engine._writer.batch_size == 2
