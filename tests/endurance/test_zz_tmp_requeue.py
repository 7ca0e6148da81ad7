import sys, subprocess
sys.path[:0]=["/work/main/tests/endurance"]
from test_slurm import *
def test_requeue(cluster, jobs, undisturbed):
    checkpoint = undisturbed() / CHECKPOINT
    slow=("--model.sampler.num_steps", 4000, "--batch_size", 1)
    jobs.finish("--ckpt_path", checkpoint, "--num_samples", 20, *slow, command="predict")
    job = submit(cluster, *("--gpus-per-node=0", "--array=0-0", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/sample.sbatch", MOONS[1], checkpoint, 20, *MOONS[2:]), *slow)
    d=Path(f"lightning_logs/slurm/{job}_0/lightning_logs/moons/version_0/parts")
    wait(cluster, lambda s: len(list(d.glob("*.npz")))>=3, job)
    before={p.name:p.stat().st_mtime_ns for p in d.glob("*.npz")}
    subprocess.run(["scancel", "--signal=USR1", f"{job}_0"], env=cluster, check=True)
    wait(cluster, lambda s: "Restarts=1" in s and "JobState=RUNNING" in s, job)
    import time; time.sleep(3)
    print([ (d/k).exists() and (d/k).stat().st_mtime_ns==v for k,v in before.items()])
    wait(cluster, lambda s: "JobState=COMPLETED" in s, job)
    print(Path(f"ncsn-samples-{job}_0.log").read_text())
    a=np.load(d.parent/"samples.npz")["samples"]; b=np.load(RUNS / "version_0/samples.npz")["samples"]
    np.testing.assert_allclose(a,b,atol=1e-5)
    print(list(Path(f"lightning_logs/slurm").rglob("*")))
