"""The two scripts end to end, as a user runs them, on a small base: results, interruptions, refusals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, record_row, run_arguments, run_script

from gaokao.runs import lock


@pytest.fixture(scope="module")
def arguments(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("scripts")
    return run_arguments(small_base, folder, **{"train.learning_rate": "1e-3", "generate.limit": 4})


@pytest.fixture(scope="module")
def trained(arguments: list[str]) -> Path:
    done = run_script("train_qwen_gaokao.py", *arguments)
    assert done.returncode == 0, done.stderr
    run = Path(arguments[3].split("=")[1]) / "gaokao"
    (run / "printed.txt").write_text(done.stdout, encoding="utf-8")
    return run


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_training_leaves_adapter_tokenizer_plot_and_run_record(trained: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (trained / "adapter" / name).exists()
    assert (trained / "loss.png").exists()
    record = load(trained / "run.json")
    assert record["data"]["records"] == 20
    assert record["data"]["train"] + len(record["data"]["validation"]) == 20
    assert record["config"]["model"]["quantization"] == "nf4"
    assert record["versions"]["trl"]
    assert record["metrics"]["train_loss_last"] > 0
    assert record["metrics"]["validation_loss_last"] > 0


def test_the_run_record_says_what_decided_the_run_and_how_it_went(trained: Path) -> None:
    record = load(trained / "run.json")
    assert record["status"] == "finished" and record["steps"] == record["steps_planned"] == 3
    assert record["decisive"]["lora.r"] == 4 and record["decisive"]["processes"] == 1
    assert record["goal"]["train.max_steps"] == 3
    (span,) = record["spans"]
    assert (span["first_step"], span["last_step"], span["finished"]) == (0, 3, True)
    assert span["tokens"] == record["metrics"]["tokens_seen"] > 0
    losses = {entry["step"]: entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry}
    assert set(losses) == {2, 3}
    assert losses[record["adapter_step"]] == min(losses.values()) == record["metrics"]["validation_loss_best"]


def test_training_prints_one_screen_and_what_to_run_next(trained: Path) -> None:
    lines = (trained / "printed.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 24
    for start in ("run ", "base ", "device ", "data ", "training ", "batch ", "result ", "adapter ", "files ", "next "):
        assert any(line.startswith(start) for line in lines), start
    assert "python infer_qwen_gaokao.py" in lines[-1]
    assert any(line.startswith("WARNING   3 optimizer steps hardly train") for line in lines)


def test_no_warning_of_a_library_reaches_the_user(arguments: list[str], trained: Path) -> None:
    done = run_script("infer_qwen_gaokao.py", *arguments, "--output.run=gaokao")
    assert done.returncode == 0, done.stderr
    rest = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "item" not in line]
    assert rest == []


def test_generation_writes_questions_and_scores(arguments: list[str], trained: Path) -> None:
    done = run_script("infer_qwen_gaokao.py", *arguments, "--restart")
    assert done.returncode == 0, done.stderr
    entries = load(trained / "generated" / "questions.json")
    assert [entry["id"] for entry in entries] == ["r0", "r1", "r2", "r3"]
    lines = (trained / "generated" / "questions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert sorted(json.loads(line)["id"] for line in lines) == ["r0", "r1", "r2", "r3"]
    assert load(trained / "generated" / "scores.json")["items"] == 4
    for said in ("usable    ", "checks    ", "grounding ", "similarity ", "chance level"):
        assert said in done.stdout
    # The first one at once, two at the end.
    assert done.stdout.count("finish reason") == 3
    assert (trained / "generated" / "report.html").read_text(encoding="utf-8").count("<article") == 4
    again = run_script("evaluate.py", trained / "generated" / "questions.json")
    figures = again.stdout.splitlines()[:-1]
    assert done.stdout.splitlines()[-len(figures) - 1 : -1] == figures


def test_a_finished_run_is_left_as_it_is_and_set_aside_only_where_that_is_asked(
    arguments: list[str], trained: Path
) -> None:
    again = [*arguments, "--output.run=again", "--train.max_steps=1"]
    assert run_script("train_qwen_gaokao.py", *again).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (trained.parent / "again").rglob("*")}
    done = run_script("train_qwen_gaokao.py", *again)
    assert done.returncode == 0
    assert "is finished, after 1 steps: nothing to train" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (trained.parent / "again").rglob("*")} == before
    done = run_script("train_qwen_gaokao.py", *again, "--train.resume=false")
    assert "the earlier run was moved to" in done.stdout
    assert len([path for path in trained.parent.iterdir() if path.name.startswith("again")]) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("--train.max_length=64", "every one of the 20 records"), ("--lora.target_modules=c_attn", "use all-linear")],
)
def test_a_training_that_fails_before_its_first_step_leaves_the_earlier_run_in_its_place(
    arguments: list[str], trained: Path, wrong: str, said: str
) -> None:
    done = run_script("train_qwen_gaokao.py", *arguments, "--train.resume=false", wrong)
    assert done.returncode == 2 and said in done.stderr
    assert (trained / "adapter" / "adapter_model.safetensors").exists()


def test_a_second_training_of_a_run_is_refused_and_told_who_holds_it(arguments: list[str], trained: Path) -> None:
    with lock(trained, "a training of this test"):
        done = run_script("train_qwen_gaokao.py", *arguments)
    assert done.returncode == 2
    assert f"is in use by a training of this test (process {os.getpid()} on" in done.stderr


def test_a_run_is_not_set_aside_while_questions_are_written_into_it(arguments: list[str], trained: Path) -> None:
    with lock(trained / "generated", "an inference"):
        done = run_script("train_qwen_gaokao.py", *arguments, "--train.resume=false")
    assert done.returncode == 2 and "is in use by an inference" in done.stderr
    assert (trained / "adapter").is_dir()


def test_a_results_folder_that_cannot_be_written_is_named(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for script in ("train_qwen_gaokao.py", "infer_qwen_gaokao.py"):
        done = run_script(
            script,
            *arguments,
            f"--output.dir={tmp_path / 'file'}",
            "--adapter=none" if "infer" in script else "--train.seed=1",
        )
        assert done.returncode == 2
        assert "cannot be written to" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_adapter_folder_that_is_missing_is_named(arguments: list[str], tmp_path: Path) -> None:
    done = run_script("infer_qwen_gaokao.py", *arguments, "--adapter", tmp_path / "nope")
    assert done.returncode == 2
    assert "there is no such folder; train first" in done.stderr
    assert "Traceback" not in done.stderr


def test_resuming_without_a_checkpoint_is_named(arguments: list[str]) -> None:
    done = run_script("train_qwen_gaokao.py", *arguments, "--output.run=never", "--train.resume=true")
    assert done.returncode == 2
    assert "holds no run to go on with; leave it at auto" in done.stderr


def interrupt(script: str, arguments: list[str], ready: Any, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Start a script, press Ctrl-C (or send another signal) once `ready()` holds, and wait."""
    process = subprocess.Popen(
        [sys.executable, script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    deadline = time.time() + 300
    while not ready() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(by)
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr


@pytest.fixture(scope="module")
def stopped(arguments: list[str], trained: Path) -> tuple[list[str], Path, str]:
    """A run that Ctrl-C ended some steps after a checkpoint."""
    long = [*arguments, "--output.run=stopped", "--train.max_steps=100000", "--train.save_steps=7",
            "--train.keep=last", "--train.eval_steps=100000"]  # fmt: skip
    run = trained.parent / "stopped"
    first = run / "checkpoints" / "checkpoint-7" / "trainer_state.json"
    code, said = interrupt("train_qwen_gaokao.py", long, first.exists)
    assert code == 130, said
    return long, run, said


def test_ctrl_c_in_training_saves_the_step_and_the_same_command_goes_on(
    stopped: tuple[list[str], Path, str],
) -> None:
    long, run, said = stopped
    assert "all of them saved; the same command goes on" in said
    assert "Traceback" not in said
    record = load(run / "run.json")
    assert record["status"] == "interrupted"
    kept = max(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("checkpoint-*"))
    assert record["steps"] == kept
    # What is newer and not whole is named and passed over.
    half = run / "checkpoints" / f"checkpoint-{kept + 1}"
    half.mkdir()
    done = run_script("train_qwen_gaokao.py", *long, f"--train.max_steps={kept + 2}")
    assert done.returncode == 0, done.stderr
    assert f"goes on from {run / 'checkpoints' / f'checkpoint-{kept}'}" in done.stdout
    assert f"{half} is passed over" in done.stdout
    record = load(run / "run.json")
    assert record["status"] == "finished" and record["steps"] == kept + 2
    assert [(span["first_step"], span["last_step"]) for span in record["spans"]] == [(0, kept), (kept, kept + 2)]
    assert record["metrics"]["tokens_seen"] == sum(span["tokens"] for span in record["spans"])
    steps = [entry["step"] for entry in record["history"] if "loss" in entry]
    assert steps == list(range(1, kept + 3))


def test_an_interrupted_run_does_not_go_on_as_another_one(
    arguments: list[str], stopped: tuple[list[str], Path, str], tmp_path: Path
) -> None:
    long, run, _ = stopped
    record = load(run / "run.json")
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")
    other = tmp_path / "data.json"
    other.write_text(json.dumps([record_row(n) for n in range(21)], ensure_ascii=False), encoding="utf-8")
    done = run_script(
        "train_qwen_gaokao.py", *long[:1], f"--data.train={other}", *long[2:], "--lora.alpha=16", "--train.seed=7",
        "--data.validation_share=0.2", "--train.effective_batch=2", "--train.eval_steps=5",
    )  # fmt: skip
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert done.returncode == 2
    for key, before, now in (("lora.alpha", 64.0, 16.0), ("train.seed", 42, 7), ("train.effective_batch", 1, 2)):
        assert f"{key} was {before}, is {now}" in done.stderr
    assert "data.train was" in done.stderr and "data.validation_share was" in done.stderr
    assert "train.eval_steps" not in done.stderr and "model.base" not in done.stderr
    assert "start new with --train.resume false" in done.stderr


SLOW = ["--generate.limit=20", "--generate.batch_size=2", "--generate.max_new_tokens=200", "--generate.attempts=2"]


def written(run: Path) -> list[tuple[str, int]]:
    """Id and attempt of every whole line of every journal of a generation."""
    found = []
    for journal in run.glob("generated/questions*.jsonl"):
        content = journal.read_bytes()
        rows = content[: content.rfind(b"\n") + 1].splitlines()
        found += [(row["id"], row["attempt"]) for row in map(json.loads, rows)]
    return found


@pytest.fixture(scope="module")
def unbroken(arguments: list[str], trained: Path) -> bytes:
    """The questions of a generation that nothing interrupts."""
    adapter = f"--generate.adapter={trained / 'adapter'}"
    done = run_script("infer_qwen_gaokao.py", *arguments, *SLOW, "--output.run=unbroken", adapter)
    assert done.returncode == 0, done.stderr
    return (trained.parent / "unbroken" / "generated" / "questions.json").read_bytes()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_generation_keeps_what_is_finished_and_the_same_command_goes_on(
    arguments: list[str], trained: Path, unbroken: bytes, by: signal.Signals
) -> None:
    run = trained.parent / f"stopped{by}"
    slow = [*arguments, *SLOW, f"--output.run={run.name}", f"--generate.adapter={trained / 'adapter'}"]
    code, said = interrupt("infer_qwen_gaokao.py", slow, lambda: len(written(run)) >= 3, by)
    assert code == 130
    assert "of 20 questions are written and kept in" in said and "the same command goes on" in said
    assert "Traceback" not in said
    kept = written(run)
    assert 3 <= len(kept) < 40
    assert not (run / "generated" / "questions.json").exists()
    assert run_script("evaluate.py", run / "generated" / "questions.jsonl").returncode == 0
    assert run_script("infer_qwen_gaokao.py", *slow).returncode == 0
    assert written(run)[: len(kept)] == kept and len(set(written(run))) == len(written(run))
    assert (run / "generated" / "questions.json").read_bytes() == unbroken
    again = run_script("infer_qwen_gaokao.py", *slow)
    assert again.returncode == 0 and again.stdout.startswith("finished  ")


KILLS = int(os.environ.get("GAOKAO_KILLS", "2"))


def test_kill_9_at_random_moments_loses_and_doubles_nothing(
    arguments: list[str], trained: Path, unbroken: bytes
) -> None:
    run = trained.parent / "killed"
    slow = [*arguments, *SLOW, "--output.run=killed", f"--generate.adapter={trained / 'adapter'}"]
    moments = random.Random(KILLS)
    kept: list[tuple[str, int]] = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "infer_qwen_gaokao.py", *slow], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        more = len(kept) + moments.randint(0, 3)
        deadline = time.time() + 300
        while len(written(run)) < more + 1 and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(moments.random() / 5)
        process.kill()
        process.wait()
        now = written(run)
        assert now[: len(kept)] == kept and len(set(now)) == len(now)
        kept = now
    assert kept
    assert run_script("infer_qwen_gaokao.py", *slow).returncode == 0
    assert written(run)[: len(kept)] == kept and len(set(written(run))) == len(written(run))
    assert (run / "generated" / "questions.json").read_bytes() == unbroken


def test_two_processes_share_the_items_and_one_that_is_killed_costs_what_it_had_not_written(
    arguments: list[str], trained: Path, unbroken: bytes
) -> None:
    run = trained.parent / "shared"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29520",
        "infer_qwen_gaokao.py", *arguments, *SLOW, "--output.run=shared", f"--generate.adapter={trained / 'adapter'}",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while len(written(run)) < 4 and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    second = psutil.Process(process.pid).children()[1]
    second.kill()
    process.wait(timeout=300)
    assert process.returncode != 0
    kept = set(written(run))
    assert kept and not (run / "generated" / "questions.json").exists()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (run / "generated").glob("*.jsonl")} == {"questions.jsonl", "questions-1.jsonl"}
    assert kept <= set(written(run)) and len(set(written(run))) == len(written(run))
    assert (run / "generated" / "questions.json").read_bytes() == unbroken
    assert done.stdout.count("files     ") == 1


def together(machines: int, *command: str) -> list[tuple[int, str, str]]:
    """Run a command by torchrun in two processes, on one machine or on what looks like two; of each: exit code, output."""
    launcher = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc_per_node={2 // machines}",
        "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:29517", "--local_addr=127.0.0.1",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*launcher, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8",
        )
        for _ in range(machines)
    ]  # fmt: skip
    said = [process.communicate(timeout=600) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_two_processes_train_one_adapter_as_one_does_also_resumed_on_two_machines(
    arguments: list[str], trained: Path, tmp_path: Path
) -> None:
    chats = [
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答" * n}]}
        for n in range(1, 31)
    ]
    (tmp_path / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    # A learning rate that does not depend on the last step, so that a run of 2 steps can go on to 5.
    same = [
        *arguments, f"--data.mix={tmp_path / 'chats.json'}", "--train.effective_batch=4", "--data.validation_share=0.2",
        "--train.lr_scheduler_type=constant", "--train.warmup_steps=0", "--model.dtype=fp32",
        "--train.keep=last",
    ]  # fmt: skip
    for machines, steps in ((1, 2), (2, 5)):
        command = ["train_qwen_gaokao.py", *same, "--output.run=two", f"--train.max_steps={steps}"]
        done = together(machines, *command)
        assert all(code == 0 for code, _, _ in done), done[0][2][-3000:]
        printed = "".join(output for _, output, _ in done)
        assert printed.count("result ") == 1
    assert "goes on from" in printed and "general loss " in printed
    one = run_script("train_qwen_gaokao.py", *same, "--output.run=one", "--train.max_steps=5")
    assert one.returncode == 0, one.stderr
    records = [load(trained.parent / name / "run.json") for name in ("two", "one")]
    assert [record["decisive"]["processes"] for record in records] == [2, 1]
    assert records[0]["data"]["mix"]["held_out"] == 4
    for key, count in (("loss", 5), ("grad_norm", 5), ("eval_loss", 3), ("general_loss", 2)):
        two, one_alone = (
            {entry["step"]: entry[key] for entry in record["history"] if key in entry} for record in records
        )
        assert len(two) == count and two == pytest.approx(one_alone, rel=1e-3), key
    assert run_script("infer_qwen_gaokao.py", *arguments, "--output.run=two").returncode == 0


def test_two_processes_stop_at_the_same_step_and_go_on_together(arguments: list[str], trained: Path) -> None:
    # torch.distributed.run gives the workers' exit codes a page of its own; what counts is what they left.
    run = trained.parent / "pair"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29518",
        "train_qwen_gaokao.py", *arguments, "--output.run=pair", "--train.keep=last", "--train.eval_steps=100000",
        "--train.save_steps=5",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--train.max_steps=100000"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.time() + 300
    first = run / "checkpoints" / "checkpoint-5" / "trainer_state.json"
    while not first.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    # What a terminal does: every process of the group gets it, and torchrun hands it on as well.
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=300)
    record = load(run / "run.json")
    assert record["status"] == "interrupted"
    assert (run / "checkpoints" / f"checkpoint-{record['steps']}" / "rng_state_1.pth").exists()
    done = subprocess.run(
        [*command, f"--train.max_steps={record['steps'] + 1}"], cwd=ROOT, env=environment, capture_output=True, text=True,
        encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:3000]
    assert "goes on from" in done.stdout
    alone = run_script("train_qwen_gaokao.py", *command[6:], "--train.resume=true")
    assert "processes was 2, is 1" in alone.stderr


@pytest.mark.skipif("GAOKAO_FULL_RUN" not in os.environ, reason="GAOKAO_FULL_RUN=1: the shipped configuration, minutes")
def test_the_shipped_configuration_teaches_the_tiny_model_the_form(tmp_path: Path) -> None:
    out = f"--output.dir={tmp_path}"
    assert run_script("train_qwen_gaokao.py", out).returncode == 0
    for more in ([], ["--adapter", "none"]):
        assert run_script("infer_qwen_gaokao.py", out, *more).returncode == 0
    metrics = load(tmp_path / "gaokao" / "run.json")["metrics"]
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]
    assert load(tmp_path / "gaokao" / "generated" / "scores.json")["three_sections_and_stopped"] >= 0.8
    assert load(tmp_path / "gaokao" / "generated_base" / "scores.json")["three_sections_and_stopped"] < 0.2
