"""Question: what does a training step cost on each backend, and what does `fit` add to a bare step?

    python benchmarks/train_step.py --backends=jax,tensorflow,torch --size=5m --json=result.json

Expected: on jax, fit / bare at most 1.05 at 5 M parameters. The order of the backends depends on the machine.

    python benchmarks/train_step.py --backends=jax --cases=fit --preset=sid2_imagenet256_uvit2 \\
        --dtype=mixed_bfloat16 --batch_size=32 --profile

says what a step reaches of the device: see speed.py.

    git worktree add ../before COMMIT
    python benchmarks/train_step.py --backends=torch --cases=fit --before=../before

says what `fit` costs now and what it cost at another commit, from version 0.2 on, in the same rounds. Images are
random, of a seed, on the host; no data are needed.

A run of a case is --steps steps of training on uint8 batches from host numpy; `fit` is timed from the begin
to the end of its epoch, so the milliseconds that a call of fit itself takes are kept apart (`call_seconds` in
the JSON). Where fit / bare exceeds 1.05, or with --parts, the library's own step is run with one part
changed at a time.
"""

import functools
import itertools
import pathlib
import statistics
import sys
import time

import harness
import report
import speed
import subjects
from absl import app, flags

FLAGS = flags.FLAGS
LIMIT = 1.05
BARE = ("jax", "torch")  # have a step without `fit`
DEFAULT_BATCH = {"tiny": 4, "small": 32, "5m": 16}


def _define_flags():
    subjects.define_flags()
    flags.DEFINE_integer("batch_size", None, "Images a batch; default: as suits the size.", lower_bound=1)
    flags.DEFINE_integer("steps", 6, "Training steps a run.", lower_bound=1)
    flags.DEFINE_list("before", [], "Folders with other commits of this repository, whose `fit` is measured, too.")
    flags.DEFINE_bool("parts", None, "Cost of the parts on jax; default: where fit / bare exceeds 1.05.")


def _commits() -> dict[str, str]:
    """The folders of --before, by their names."""
    found = {pathlib.Path(folder).resolve().name: folder for folder in FLAGS.before}
    if len(found) < len(FLAGS.before):
        raise ValueError(f"--before must be folders of different names, got {', '.join(FLAGS.before)}.")
    for folder in FLAGS.before:  # else what is installed would be measured in its place
        if not (pathlib.Path(folder) / "keras_sid2").is_dir():
            raise ValueError(f"--before must be folders with commits of this repository; {folder} has no keras_sid2.")
    return found


def _batch_size() -> int:
    return FLAGS.batch_size or (16 if FLAGS.preset else DEFAULT_BATCH[FLAGS.size])


def _batches(model) -> list[tuple]:
    return [subjects.batch(model, _batch_size(), seed) for seed in range(FLAGS.steps)]


# -- cases, in the workers ---------------------------------------------------------------------------------


_runs: dict = {}  # of this worker, by case, for --profile


@functools.cache
def _fit_model():
    """The model that `fit` trains, compiled."""
    model = subjects.make_model()
    model.compile()
    return model


def speed_case(case: str):
    """A case that is no measurement: what speed.py wants to know of `fit` or "bare" in this worker."""
    profiled = (case, FLAGS.steps, "a step", _runs[case]) if FLAGS.profile else None
    return speed.facts_case(lambda: subjects.multiply_adds_of(_fit_model().network), profiled)


def _parameters():
    return subjects.parameters(_fit_model())


def fit_case(name: str = "fit", model=None):
    """`fit`, as a user calls it, for one epoch; of the model that the flags choose, unless another is given."""
    import keras

    model = model or _fit_model()
    batches = _batches(model)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, i):
            return batches[i]

    class EpochClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = harness.now()

        def on_train_batch_end(self, batch, logs=None):
            self.logs = logs
            if name not in speed.first_seconds:
                harness.block(logs)
                speed.first_seconds[name] = time.perf_counter() - begun

        def on_epoch_end(self, epoch, logs=None):
            harness.block(self.logs)
            self.times = harness.since(self.start)

    def run() -> dict:
        clock, start = EpochClock(), time.perf_counter()
        history = model.fit(Batches(), epochs=1, verbose=0, callbacks=[clock])
        call_seconds = time.perf_counter() - start - clock.times["seconds"]
        loss = float(history.history["loss"][0])
        return {**clock.times, "units": len(batches), "call_seconds": call_seconds, "loss": loss}

    begun = time.perf_counter()
    run()
    _runs[name] = run
    return run


def _loop_case(name: str, model, step, final):
    """Runs `step` on each batch in a plain loop; `final` is what to wait for."""
    batches = _batches(model)
    begun = time.perf_counter()
    step(*batches[0])
    harness.block(final())
    speed.first_seconds[name] = time.perf_counter() - begun

    def run() -> dict:
        start = harness.now()
        losses = [step(*batch) for batch in batches]
        harness.block(final())
        times = harness.since(start)
        return {**times, "units": len(batches), "loss": statistics.mean(map(float, losses))}

    run()
    _runs[name] = run
    return run


def bare_case():
    """On jax the hand-written step; on torch the library's own train_step, in a plain loop."""
    import keras

    model = subjects.make_model()
    if keras.backend.backend() == "torch":
        model.compile()
        return _loop_case("bare", model, lambda *batch: model.train_step(batch)["loss"], lambda: None)
    from bare_jax import BareTrainer

    trainer = BareTrainer(model)
    return _loop_case("bare", model, trainer.step, lambda: trainer.state)


def step_case(part: str | None = None):
    """The library's own train_step, jitted, in a plain loop without fit; with one part changed (jax)."""
    import jax
    import parts

    model = subjects.make_model()
    model.compile()
    if part is not None:
        model = parts.CHANGES[part](model)
    variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    # Copies: two cases must not donate each other's buffers.
    groups = (*variables, model.metrics_variables)
    state = [[jax.numpy.array(v.value, copy=True) for v in group] for group in groups]
    train_step = jax.jit(model.train_step, donate_argnums=0)

    def step(*batch):
        nonlocal state
        logs, state = train_step(state, batch)
        return logs["loss"]

    return _loop_case("step", model, step, lambda: state)


def _make_case(name: str):
    if name.startswith("step"):
        return step_case(name.removeprefix("step").strip() or None)
    if name.startswith("speed "):
        return speed_case(name.removeprefix("speed "))
    return {"fit": fit_case, "bare": bare_case, "parameters": _parameters}[name]()


# -- the table, in the parent ------------------------------------------------------------------------------


def _ratios(samples: list[dict], backends: list[str]) -> list[dict]:
    rows = [report.ratio(samples, f"{b}: fit / bare", (b, "fit"), (b, "bare"), LIMIT) for b in BARE]
    for case in dict.fromkeys(s["case"] for s in samples if s["case"].startswith("step")):
        rows.append(report.ratio(samples, f"jax: {case} / bare", ("jax", case), ("jax", "bare")))
    for other in backends[1:]:
        name = f"fit: {other} / {backends[0]}"
        rows.append(report.ratio(samples, name, (other, "fit"), (backends[0], "fit")))
    for name, b in itertools.product(_commits(), backends):
        rows.append(report.ratio(samples, f"fit: {b} / {b} {name}", (b, "fit"), (f"{b} {name}", "fit")))
    return [row for row in rows if row is not None]


def _needs_parts(bench: harness.Bench) -> bool:
    if "jax" not in bench.backends or FLAGS.parts is False or FLAGS.cases is not None:
        return False
    found = report.ratio(bench.samples, "", ("jax", "fit"), ("jax", "bare"))
    return FLAGS.parts or (found is not None and found["ratio"] > LIMIT)


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    import parts

    with subjects.open_bench(__file__, sys.argv[1:], _commits()) as bench:
        plan = [(b, "bare") for b in BARE if b in bench.backends]
        labels = [b if name is None else f"{b} {name}" for b in bench.backends for name in (None, *_commits())]
        plan = subjects.chosen([*plan, *((label, "fit") for label in labels)])
        bench.run(plan, FLAGS.rounds)
        found = {b: {} for b in bench.backends}
        for b, case in itertools.product(bench.backends, ("fit", "bare")):
            if bench.ran(b, case):
                found[b][case] = bench.facts(f"speed {case}", [b])
        if _needs_parts(bench):
            names = ["step", *(f"step {change}" for change in parts.CHANGES)]
            bench.run([("jax", case) for case in ("bare", "fit", *names)], FLAGS.rounds)
        facts = bench.facts("parameters")
    facts.pop("has_classes", None)
    rows = speed.rows(bench, found, 6, _batch_size())
    facts |= {"batch size": _batch_size(), "steps a run": FLAGS.steps}
    subjects.conclude(bench, "train_step", __doc__, "a step", facts, rows, _ratios(bench.samples, bench.backends))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
