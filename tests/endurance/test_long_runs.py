"""Long runs need no more memory, files and threads than short ones."""

import os
from pathlib import Path

from support.jobs import CHECKPOINT, ENDLESS, RUNS


def resources(pid):
    """Resident memory in MB, open files and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    memory = int(status["VmRSS"].split()[0]) / 1024
    return memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def assert_steady(job, directory, pattern, moments, megabytes):
    """From one moment to another, counted in files of a directory, needs do not grow."""
    seen = []
    for moment in moments:
        job.wait_until(lambda n=moment: len(list(directory.glob(pattern))) >= n, seconds=300)
        seen.append(resources(job.pid))
    job.processes[0].terminate()
    job.wait()
    (memory, *others), (memory_later, *others_later) = seen
    print(seen)
    assert memory_later < memory + megabytes, seen
    assert all(later <= before for before, later in zip(others, others_later, strict=True)), seen


def test_a_long_training_needs_no_more_than_a_short_one(jobs):
    # An epoch has 31 steps, a validation, pictures and ten checkpoints.
    options = ("--trainer.accumulate_grad_batches", 1, "--trainer.log_every_n_steps", 31)
    job = jobs.start(*ENDLESS, *options, "--model.preview.every_n_epochs", 1)
    pictures = RUNS / "version_0/pictures"
    assert_steady(job, pictures, "samples_step*", (15, 66), megabytes=30)  # 2,046 steps


def test_drawing_many_samples_needs_no_more_than_drawing_few(jobs, undisturbed):
    many = ("--num_samples", 50_000, "--batch_size", 500, "--model.sampler.num_steps", 100)
    job = jobs.start("--ckpt_path", undisturbed() / CHECKPOINT, *many, command="predict")
    assert_steady(job, RUNS / "version_0/parts", "*.npz", (10, 60), megabytes=10)
