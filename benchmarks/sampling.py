"""Question: what does an image cost on each backend, what does `generate` add to a hand-written loop, and
what does guidance cost when its interval covers a third of the steps?

    python benchmarks/sampling.py --backends=jax,tensorflow,torch --size=5m --json=result.json

Expected: on jax, generate / fori_loop at most 1.05; on every backend, guidance in a third of the steps at
most 1.45 times no guidance (4/3 is its share of the network calls), in all steps about 2.

A run of a case draws --images images at once by DDPM in --steps steps, and ends with uint8 on the host. A
call of generate has a fixed cost of a few milliseconds; the more steps, the less it shows.
"""

import functools
import sys

import harness
import numpy as np
import report
import subjects
from absl import app, flags

FLAGS = flags.FLAGS
LOOP_LIMIT, THIRD_LIMIT = 1.05, 1.45
GUIDED = ("no guidance", "guidance in a third", "guidance in all")
DEFAULT_IMAGES = {"tiny": 4, "small": 16, "5m": 8}


def _define_flags():
    subjects.define_flags()
    flags.DEFINE_integer("steps", 12, "Steps of the sampler, divisible by 3.", lower_bound=3)
    flags.DEFINE_integer("images", None, "Images a run; default: as many as suit the size.", lower_bound=1)
    flags.register_validator("steps", lambda steps: steps % 3 == 0, "--steps must be divisible by 3.")


def _num_images() -> int:
    return FLAGS.images or (8 if FLAGS.preset else DEFAULT_IMAGES[FLAGS.size])


# -- cases, in the workers ---------------------------------------------------------------------------------


@functools.cache
def _model():
    """One for all cases of a worker, so that they share its compiled programs, as a user's calls would."""
    model = subjects.make_model()
    subjects.wake(model)
    model.compile()
    return model


def _labels(model) -> np.ndarray:
    return np.arange(_num_images(), dtype="int32") % (model.num_classes or 1)


def third_of_steps(schedule, num_steps: int) -> tuple[float, float]:
    """An interval of logsnr with exactly the middle third of the steps inside, its ends between two steps."""
    import keras_sid2
    from keras_sid2.sampling import uniform_t

    logsnr = uniform_t(schedule, num_steps)[:-1]
    first, last = num_steps // 3, 2 * num_steps // 3
    interval = tuple(float(logsnr[i - 1] + logsnr[i]) / 2.0 for i in (first, last))
    guided = keras_sid2.Guidance(1.5, interval).steps(logsnr)
    if guided != (first, last):
        raise ValueError(f"{interval} guides steps {guided} of {num_steps}, not {(first, last)}.")
    return interval


def _guidance(case: str, model):
    import keras_sid2

    if case == GUIDED[0]:
        return None
    interval = third_of_steps(model.schedule, FLAGS.steps) if case == GUIDED[1] else None
    return keras_sid2.Guidance(1.5, interval)


def _timed(draw) -> dict:
    """The cost of draw() and, to see that two ways draw the same kind of images, their mean and spread."""
    start = harness.now()
    images = draw()
    seconds = harness.since(start)
    return {**seconds, "units": len(images), "mean": float(images.mean()), "std": float(images.std())}


def generate_case(case: str):
    """`generate`, as a user calls it."""
    model = _model()
    labels = None if model.num_classes is None else _labels(model)
    settings = {"num_images": _num_images(), "num_steps": FLAGS.steps, "guidance": _guidance(case, model)}
    seeds = iter(range(10**9))

    def run() -> dict:
        return _timed(lambda: model.generate(labels, seed=next(seeds), **settings))

    run()
    return run


def loop_case():
    """The hand-written lax.fori_loop (jax)."""
    from bare_jax import BareSampler

    model = _model()
    sampler, labels = BareSampler(model, FLAGS.steps), _labels(model)
    seeds = iter(range(10**9))

    def run() -> dict:
        return _timed(lambda: sampler.draw(next(seeds), labels))

    run()
    return run


def fixed_case():
    """A call of generate with the compiled loop taken away: what it costs beside the steps."""
    import keras

    model = _model()
    labels = None if model.num_classes is None else _labels(model)

    def draw():
        return model.generate(labels, num_images=_num_images(), num_steps=FLAGS.steps)

    nothing = keras.ops.convert_to_tensor(draw())

    def run() -> dict:
        kept = {program: program.run for program in model.sampling_programs.values()}
        for program in kept:
            program.run = lambda *_: nothing
        try:
            return _timed(draw)
        finally:
            for program, function in kept.items():
                program.run = function

    return run


def _make_case(name: str):
    if name in GUIDED:
        return generate_case(name)
    return {"fori_loop": loop_case, "call alone": fixed_case, "parameters": subjects.parameters}[name]()


# -- the table, in the parent ------------------------------------------------------------------------------


def _ratios(samples: list[dict], backends: list[str]) -> list[dict]:
    none, third, everywhere = GUIDED
    loop = ("jax", "fori_loop")
    rows = [report.ratio(samples, "jax: generate / fori_loop", ("jax", none), loop, LOOP_LIMIT)]
    for b in backends:
        name = f"{b}: guidance in a third / none"
        rows.append(report.ratio(samples, name, (b, third), (b, none), THIRD_LIMIT))
        rows.append(report.ratio(samples, f"{b}: guidance in all / none", (b, everywhere), (b, none)))
    for b in backends[1:]:
        rows.append(report.ratio(samples, f"generate: {b} / {backends[0]}", (b, none), (backends[0], none)))
    return [row for row in rows if row is not None]


def _plan(backends: list[str], has_classes: bool) -> list[tuple[str, str]]:
    """The two cases of a ratio stand side by side, so that they run one after the other."""
    plan = [("jax", "fori_loop")] if "jax" in backends else []
    for backend in backends:
        plan += [(backend, case) for case in (GUIDED if has_classes else GUIDED[:1])]
    return plan + [(backend, "call alone") for backend in backends]


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    with subjects.open_bench(__file__, sys.argv[1:]) as bench:
        facts = bench.facts("parameters")
        bench.run(_plan(bench.backends, facts.pop("has_classes", True)), FLAGS.rounds)
    result = report.document(
        program="sampling",
        question=__doc__.split("\n\n")[0],
        settings=subjects.settings(),
        facts=facts | {"images a run": _num_images(), "steps": FLAGS.steps},
        bench=bench,
        ratios=_ratios(bench.samples, bench.backends),
    )
    report.show(result, "an image")
    report.write(result, FLAGS.json)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
