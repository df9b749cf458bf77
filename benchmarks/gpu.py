"""Question: what do training and sampling reach of this card, on jax and on torch, and beside others' code?

    python benchmarks/gpu.py --json=result.json                            # within ten minutes of one card
    python benchmarks/gpu.py --rehearse --json=result.json                 # a tiny preset, on a CPU: does it run?

Expected on H100 and H200, bfloat16, imagenet256_uvit2 at batch 32, as shares of the data sheet's peak: training 0.40 on
jax and 0.35 on torch, sampling 0.50 and 0.40; ours on torch / plain torch compiled at least 1; ours / bare, that is
without `fit`, at least 0.97.

Each case is a program of this folder in a process of its own, one after another, the most telling first; each has a
limit of its own, all have --minutes together, and what did not run says why. The result is written after every case.
No data are needed, nor TensorFlow; a backend or diffusers that is not installed is left out. Compiled programs are kept
in the folder --cache, if one is given: a second run starts faster, and its times to the first step say so.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import bars
import report
import rich.table
import speed
from absl import app, flags

FLAGS = flags.FLAGS
FOLDER = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Case:
    """A program, the backend and the case of it, on a preset; `seconds` is the most that it may take."""

    name: str
    program: str
    backend: str
    case: str
    preset: str
    batch: int
    steps: int
    seconds: int
    needs: tuple[str, ...] = ()

    def command(self, path: str) -> list[str]:
        """`path` is of the program's own JSON file."""
        return [
            sys.executable,
            str(FOLDER / f"{self.program}.py"),
            f"--backends={self.backend}",
            f"--cases={self.case}",
            f"--preset={self.preset}",
            f"--batch_size={self.batch}",
            f"--steps={self.steps}",
            f"--dtype={FLAGS.dtype}",
            f"--rounds={FLAGS.rounds}",
            f"--profile={str(FLAGS.profile).lower()}",
            f"--json={path}",
        ]


def plan(rehearse: bool) -> list[Case]:
    """All cases, the most telling first."""
    small, large = ("sid2_imagenet256_uvit2", 32), ("sid2_imagenet512_uvit2", 8)
    if rehearse:
        small = large = ("sid2_digits", 2)
    train, sample = (2, 6) if rehearse else (10, 32)
    cases = []

    def add(name, program, backend, case, of, steps, seconds, *needs):
        side = "" if rehearse else of[0].removeprefix("sid2_") + " "
        cases.append(
            Case(f"{name}, {side}batch {of[1]}", program, backend, case, *of, steps, seconds, (backend, *needs))
        )

    for backend in ("jax", "torch"):
        add(f"train {backend}", "train_step", backend, "fit", small, train, 200)
        add(f"sample {backend}", "sampling", backend, "no guidance", small, sample, 120)
    for way, seconds in (("eager", 60), ("compiled", 150)):
        add(f"train plain torch {way}", "peers", "torch", f"plain {way}", small, train, seconds)
    for backend in ("torch", "jax"):
        add(f"train {backend}", "train_step", backend, "fit", large, train, 200)
    for network in ("UNet2D", "DiT"):
        add(f"train diffusers {network}", "peers", "torch", f"{network} eager", small, train, 90, "diffusers")
    for backend in ("jax", "torch"):
        of = ("sid2_photo_patches", 2) if rehearse else small  # its least network costs more than that of the digits
        add(f"train KerasCV {backend}", "peers", backend, "KerasCV", of, train, 200, "keras_cv", "tensorflow")
    for backend in ("torch", "jax"):
        add(f"train {backend} bare", "train_step", backend, "bare", small, train, 120)
    for backend in ("torch", "jax"):
        add(f"sample {backend}", "sampling", backend, "no guidance", large, sample, 120)
    return cases if not rehearse else list({case.name: case for case in cases}.values())


def _define_flags():
    flags.DEFINE_bool("rehearse", False, "sid2_digits with two images, to see that every case runs.")
    flags.DEFINE_float("minutes", 10.0, "At most, all cases together.", lower_bound=0.1)
    flags.DEFINE_list("only", None, "Cases whose names contain one of these words; default: all.")
    flags.DEFINE_enum("dtype", "mixed_bfloat16", speed.DTYPES, "The networks' dtype policy.")
    flags.DEFINE_integer("rounds", 3, "Runs of every case.", lower_bound=1)
    flags.DEFINE_bool("profile", True, "Kernels by time, in the JSON file.")
    flags.DEFINE_string("cache", None, "A folder for jax's and inductor's compiled programs.")
    flags.DEFINE_string("json", None, "Where to write the result.")


# -- running -----------------------------------------------------------------------------------------------


def run(case: Case, seconds: float) -> dict:
    """{"name", "seconds", and "row" of speed.py or, where there is none, "why"} of a case, ended after `seconds`."""
    begun = time.perf_counter()
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"name": case.name, "seconds": 0.0, "why": f"{' and '.join(missing)} is not installed"}
    if seconds < 5.0:
        return {"name": case.name, "seconds": 0.0, "why": "no time was left: give more --minutes"}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "result.json"
        ended, output = _bounded(case.command(str(path)), seconds)
        found = json.loads(path.read_text()) if path.exists() else {}
    spent = {"name": case.name, "seconds": round(time.perf_counter() - begun, 1)}
    rows = [row for row in found.get("speed", ()) if row["case"] == case.case]
    if rows:
        return {**spent, "settings": found["settings"], "row": rows[0]}
    failures = "\n".join(found.get("failures", {}).values())
    return {**spent, "why": f"ended after {seconds:.0f} s" if ended else failures or output[-3000:] or "no result"}


def _bounded(command: list[str], seconds: float) -> tuple[bool, str]:
    """(whether it had to be ended, what it printed); ends its workers, too, which are of its process group."""
    environment = dict(os.environ)
    if FLAGS.cache:
        kept = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
        environment |= {name: str(pathlib.Path(FLAGS.cache).resolve() / part) for name, part in kept.items()}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        ended = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            ended = True
        finally:  # after Ctrl-C too, which does not reach another session
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return ended, log.read()


# -- the result --------------------------------------------------------------------------------------------


def ratios(results: list[dict]) -> dict[str, float]:
    """Images a second of ours to those of the others on the same preset, and torch's to jax's; ours on jax beside what
    is on jax, else on torch."""
    speeds = {r["name"]: r["row"]["images_per_second"] for r in results if "row" in r}
    found = {}
    for name in speeds:
        (kind, what), size = name.split(", ")[0].split(" ", 1), name.split(", ")[1]
        ours = f"{kind} {'jax' if what in ('KerasCV jax', 'jax bare') else 'torch'}, {size}"
        if what != "torch" and ours in speeds:
            found[f"{ours} / {what}"] = speeds[ours] / speeds[name]
    return found


def show(result: dict):
    """Prints a row a case, ratios, and why a case did not run."""
    out = report.console()
    table = rich.table.Table(title=f"{result['device'] or 'no case ran'}, {FLAGS.dtype}; ms a step or an image")
    for column in ("case", *speed.COLUMNS):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in result["cases"]:
        table.add_row(case["name"], *(speed.cells(case["row"]) if "row" in case else ["-"] * len(speed.COLUMNS)))
    out.print(table)
    for name, ratio in result["ratios"].items():
        out.print(f"{name}: {ratio:.2f} times its images/s", highlight=False)
    for case in result["cases"]:
        families = case.get("row", {}).get("kernels", {}).get("families", {})
        if families:
            texts = (f"{family} {milliseconds:.1f}" for family, milliseconds in families.items())
            out.print(f"{case['name']}: ms in {', '.join(texts)}", highlight=False)
        if "why" in case:
            out.print(f"NOT MEASURED {case['name']}: {case['why']}", style="red", markup=False)


def main(argv):
    del argv
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = [c for c in plan(FLAGS.rehearse) if FLAGS.only is None or any(word in c.name for word in FLAGS.only)]
    if not chosen:
        names = "; ".join(case.name for case in plan(FLAGS.rehearse))
        raise SystemExit(f"--only={','.join(FLAGS.only)} is in no case's name: {names}.")
    end = time.monotonic() + 60.0 * FLAGS.minutes
    result = {**report.heading("gpu", __doc__), "device": None, "cases": [], "ratios": {}}
    for case in chosen:
        print(f"{case.name} ...", flush=True)
        done = run(case, min(case.seconds, end - time.monotonic()))
        result["cases"].append(done)
        result["device"] = result["device"] or done.get("row", {}).get("device")
        result["ratios"] = ratios(result["cases"])
        report.write(result, FLAGS.json)
        print(f"    {done['seconds']} s, {'done' if 'row' in done else done['why'].splitlines()[0]}", flush=True)
    show(result)
    bars.draw(result, FLAGS.json)
    if not any("row" in case for case in result["cases"]):
        raise SystemExit(1)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
