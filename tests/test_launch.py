"""Other processes: several for one job, several jobs, and what is said when one of them fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_browser import free_port
from helpers_processes import sums

from skelnb.errors import DataError, ParameterError, TrainingError
from skelnb.training import launch as module
from skelnb.training.launch import launch, resolve, run_jobs


def test_the_failure_of_one_rank_arrives_as_it_was_raised_and_the_first_one_speaks(capsys):
    with pytest.raises(DataError, match="fail_on_second_rank on 2 processes: joint 24 is NaN") as e:
        launch("helpers_light:fail_on_second_rank", {}, processes=2)
    assert (e.value.file, e.value.place, e.value.remedy) == ("a.skeleton", "frame 3", "drop the frame")
    assert capsys.readouterr().out == "rank 0 speaks\n"


def test_two_machines_are_given_the_same_line(monkeypatch):
    for name, value in {"NNODES": "2", "RDZV_BACKEND": "c10d", "RDZV_ENDPOINT": f"127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(f"PET_{name}", value)
    line = [sys.executable, "-c", "from skelnb.training.launch import launch; print(launch('helpers_processes:sums', {}))"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    machines = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [m.communicate(timeout=120) for m in machines]
    assert [m.returncode for m in machines] == [0, 0], said
    alone = sums()  # the loss of the second process counts twice: three times the gradient of one
    assert {out.strip() for out, _ in said} == {str(alone | {"grad": [3 * g for g in alone["grad"]]})}


def test_two_jobs_run_side_by_side_each_on_its_own_gpu_and_answer_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "gpus", lambda: ["4", "7"])
    jobs = [("helpers_light:meet", {"folder": str(tmp_path), "me": a, "other": b}) for a, b in ("xy", "yx")]
    first, second = run_jobs(jobs, workers=2, progress=False)
    assert (first["me"], second["me"]) == ("x", "y") and {first["gpu"], second["gpu"]} == {"4", "7"}
    assert first["threads"] == second["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)


def test_failing_jobs_are_named_and_the_others_still_run(tmp_path):
    jobs = [("helpers_light:add", {"a": a, "b": 0}) for a in (1, -5, 2000)] + [("helpers_light:nothing", {})]
    with pytest.raises(TrainingError) as e:
        run_jobs(jobs, workers=4, names=["fine", "negative", "killed", "absent"], progress=False)
    text = str(e.value)
    assert "3 of 4 jobs failed: " in text.splitlines()[0] and "fine" not in text
    assert "negative failed: ArithmeticError: -5 is negative" in text and "Traceback" in text
    assert "killed was killed by signal 9" in text and "too much memory" in text
    assert "absent: 'helpers_light:nothing' cannot be imported" in text


def test_targets():
    assert launch("math:hypot", {}) == 0.0
    for wrong in ("math", "math:hypo", "no_such_module:f", ":f"):
        with pytest.raises(ParameterError, match="cannot be imported"):
            resolve(wrong)
    with pytest.raises(ParameterError, match="1 names for 2 jobs"):
        run_jobs([("math:hypot", {})] * 2, names=["a"])
    assert run_jobs([]) == []
