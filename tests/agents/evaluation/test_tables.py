from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.outcomes import JOB_OUTCOME, EvaluationResult
from agents.evaluation.play import evaluate_rule
from agents.evaluation.tables import JOB_COLUMNS, number, write_jobs
from agents.problem import Windows


def outcome(rows, nodes, names=("n0", "n1")):
    return EvaluationResult(
        policy="sjf",
        learned=False,
        starts=np.array([0]),
        values={},
        jobs=np.array(rows, JOB_OUTCOME),
        nodes=np.array(nodes, np.int32),
        capacity_units=1000,
        resource="GPUs",
        node_names=names,
    )


def test_jobs_csv_to_the_letter(tmp_path):
    rows = [
        (0, 17, 1000, 2000, 2000, 61_000, 59_000, 1000, 1, 1, 0, 0, 0, 0),
        (1, 18, 1500, 2000, 9000, 60_125, 58_000, 1000, 1, 5, 2, 1, 3, 4),
        (1, 19, 1500, 2000, 9000, 60_125, 58_000, 1000, 0, 1, 0, 0, 0, 0),
        (1, 20, 1500, -1, -1, 60_125, 58_000, 1000, 0, 0, 0, 0, 0, 0),
    ]
    places = [[0, -1], [1, 1], [1, -1], [-1, -1]]
    write_jobs(tmp_path / "jobs.csv", [outcome(rows, places)])
    assert (tmp_path / "jobs.csv").read_text() == (
        "policy,sequence,job_id,submit,start,end,nodes,"
        "preemptions,runs,interruptions,resizes,migrations\n"
        "sjf,0,17,1,2,61,n0,0,1,0,0,0\n"
        "sjf,1,18,1.5,2,60.125,n1;n1,2,5,1,3,4\n"
        "sjf,1,19,1.5,2,,n1,0,1,0,0,0\n"
        "sjf,1,20,1.5,,,,0,0,0,0,0\n"
    )


def test_jobs_csv_holds_every_job(tmp_path, trace, config, starts):
    results = [evaluate_rule(rule, Windows(trace, config, starts)) for rule in ("fcfs", "sjf")]
    results[1] = replace(results[1], policy="sjf, again")
    write_jobs(tmp_path / "jobs.csv", results)
    with (tmp_path / "jobs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == JOB_COLUMNS
    assert len(rows) == 2 * len(starts) * 64
    assert {row["policy"] for row in rows} == {"fcfs", "sjf, again"}
    for row in rows:
        assert int(row["submit"]) <= int(row["start"]) < int(row["end"])
        assert row["nodes"] == trace.nodes[0].node_id


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7273.77, "7,274"), (277.348, "277.3"), (73.306, "73.31"), (0.64689, "0.647")],
)
def test_numbers_for_people(value, text):
    assert number(value) == text
