"""Question: what does an image cost on each backend, what does `generate` add to a hand-written loop and to
diffusers' own, and what does guidance cost when its interval covers a part of the steps?

    python benchmarks/sampling.py --backends=jax,tensorflow,torch --size=5m --json=result.json

Expected: on jax, generate / fori_loop at most 1.05; on every backend, guidance in a sixth, a third, two thirds of the
steps at most 1.27, 1.45, 1.81 times no guidance (its share of the network calls and 9 percent more), in all steps about
2 or less; on torch, generate / diffusers at most 1 (on two cores: 0.56, with --size=5m and with --size=small).

    python benchmarks/sampling.py --backends=torch --cases="no guidance" --preset=sid2_imagenet256_uvit2 \\
        --dtype=mixed_bfloat16 --batch_size=32 --steps=32 --profile

says what an evaluation of the network reaches of the device: see speed.py.

A run of a case draws --images images at once by DDPM in --steps steps, and ends with uint8 on the host. A
call of generate has a fixed cost of a few milliseconds; the more steps, the less it shows. diffusers' network is not
ours: peer_diffusers.py makes one of as many multiply-adds an image. Without diffusers its case is left out.
"""

import functools
import importlib.util
import sys

import harness
import numpy as np
import report
import speed
import subjects
from absl import app, flags

FLAGS = flags.FLAGS
LOOP_LIMIT, CALLS_LIMIT = 1.05, 1.0875  # the latter by the share of the network calls
NONE, EVERYWHERE = "no guidance", "guidance in all"
PARTS = {"guidance in a sixth": 1 / 6, "guidance in a third": 1 / 3, "guidance in two thirds": 2 / 3}
GUIDED = (NONE, *PARTS, EVERYWHERE)
DEFAULT_IMAGES = {"tiny": 4, "small": 16, "5m": 8}


def _define_flags():
    subjects.define_flags()
    flags.DEFINE_integer("steps", 12, "Steps of the sampler.", lower_bound=6)
    flags.DEFINE_integer("images", None, "Images a run; default: as many as suit the size.", lower_bound=1)
    flags.DEFINE_alias("batch_size", "images")


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


def guided_steps(share: float, num_steps: int) -> tuple[int, int]:
    """(first, last) of the steps first <= i < last, a share of at least 6 in their middle, neither end among them."""
    count = round(share * num_steps)
    first = (num_steps - count) // 2
    return first, first + count


def interval_of(schedule, steps: tuple[int, int], num_steps: int) -> tuple[float, float]:
    """The interval of logsnr with exactly these steps inside, its ends between two steps."""
    import keras_sid2
    from keras_sid2.sampling import uniform_t

    logsnr = uniform_t(schedule, num_steps)[:-1]
    interval = tuple(float(logsnr[i - 1] + logsnr[i]) / 2.0 for i in steps)
    guided = keras_sid2.Guidance(1.5, interval).steps(logsnr)
    if guided != steps:
        raise ValueError(f"{interval} guides steps {guided} of {num_steps}, not {steps}.")
    return interval


def _guidance(case: str, model):
    import keras_sid2

    if case == NONE:
        return None
    if case == EVERYWHERE:
        return keras_sid2.Guidance(1.5)
    steps = guided_steps(PARTS[case], FLAGS.steps)
    return keras_sid2.Guidance(1.5, interval_of(model.schedule, steps, FLAGS.steps))


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

    speed.first_seconds[case] = run()["seconds"]
    _runs[case] = run
    return run


_runs: dict = {}  # of this worker, for --profile


def speed_case():
    """A case that is no measurement: what speed.py wants to know of unguided `generate` in this worker."""
    profiled = (NONE, FLAGS.steps, "an evaluation of the network", _runs[NONE]) if FLAGS.profile else None
    return speed.facts_case(_multiply_adds, profiled)


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


def diffusers_case():
    """diffusers' DDPMPipeline with a U-Net of the same cost (torch)."""
    draw = _peer().pipeline(FLAGS.steps)
    seeds = iter(range(10**9))

    def run() -> dict:
        return _timed(lambda: draw(_num_images(), next(seeds)))

    run()
    return run


@functools.cache
def _peer():
    import peer_diffusers

    return peer_diffusers.Peer(_model().network.get_config(), _multiply_adds())


def _multiply_adds() -> int:
    return subjects.multiply_adds_of(_model().network)


def cost_case():
    """A case that is no measurement: what an image costs our network."""
    return lambda: {"multiply-adds an image": _multiply_adds()}


def peer_cost_case():
    """A case that is no measurement: what an image costs diffusers' network."""
    return lambda: _peer().facts()


def fixed_case():
    """A call of generate with the compiled steps taken away: what it costs beside them."""
    model = _model()
    labels = None if model.num_classes is None else _labels(model)

    def draw():
        return model.generate(labels, num_images=_num_images(), num_steps=FLAGS.steps)

    def run() -> dict:
        kept = {steps: steps.advance for steps in model.sampling_programs.values() if hasattr(steps, "advance")}
        for steps in kept:
            steps.advance = lambda values, state, *_: state
        try:
            return _timed(draw)
        finally:
            for steps, advance in kept.items():
                steps.advance = advance

    draw()
    return run


def _make_case(name: str):
    if name in GUIDED:
        return generate_case(name)
    cases = {
        "fori_loop": loop_case,
        "diffusers": diffusers_case,
        "call alone": fixed_case,
        "parameters": lambda: subjects.parameters(_model()),
        "cost": cost_case,
        "cost of diffusers": peer_cost_case,
        "speed": speed_case,
    }
    return cases[name]()


# -- the table, in the parent ------------------------------------------------------------------------------


def _ratios(samples: list[dict], backends: list[str]) -> list[dict]:
    rows = [
        report.ratio(samples, "jax: generate / fori_loop", ("jax", NONE), ("jax", "fori_loop"), LOOP_LIMIT),
        report.ratio(samples, "torch: generate / diffusers", ("torch", NONE), ("torch", "diffusers")),
    ]
    for b in backends:
        for part, share in PARTS.items():
            limit = CALLS_LIMIT * (1 + share)
            rows.append(report.ratio(samples, f"{b}: {part} / none", (b, part), (b, NONE), limit))
            rows.append(report.ratio(samples, f"{b}: {part} / in all", (b, part), (b, EVERYWHERE)))
        rows.append(report.ratio(samples, f"{b}: {EVERYWHERE} / none", (b, EVERYWHERE), (b, NONE)))
    for b in backends[1:]:
        rows.append(report.ratio(samples, f"generate: {b} / {backends[0]}", (b, NONE), (backends[0], NONE)))
    return [row for row in rows if row is not None]


def _plan(backends: list[str], has_classes: bool, has_peer: bool) -> list[tuple[str, str]]:
    """The two cases of a ratio stand side by side, so that they run one after the other."""
    beside = {"jax": ["fori_loop"], "torch": ["diffusers"] if has_peer else []}
    plan = []
    for backend in backends:
        cases = [*beside.get(backend, ()), *(GUIDED if has_classes else GUIDED[:1]), "call alone"]
        plan += [(backend, case) for case in cases]
    return plan


def _has_peer(bench) -> bool:
    """Whether diffusers is measured; says so where it is asked for and missing."""
    if "torch" not in bench.backends or "diffusers" not in (FLAGS.cases or ["diffusers"]):
        return False
    installed = importlib.util.find_spec("diffusers") is not None
    if not installed:
        print("Not installed, left out: diffusers.", flush=True)
        bench.skipped.append("diffusers")
    return installed


def _facts(bench, has_peer: bool) -> dict:
    facts = bench.facts("parameters") | bench.facts("cost")
    facts |= bench.facts("cost of diffusers", backends=["torch"]) if has_peer else {}
    guided = {part: guided_steps(share, FLAGS.steps) for part, share in PARTS.items()}
    counts = {f"steps with {part}": last - first for part, (first, last) in guided.items()}
    return facts | {"images a run": _num_images(), "steps": FLAGS.steps} | counts


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    with subjects.open_bench(__file__, sys.argv[1:]) as bench:
        has_peer = _has_peer(bench)
        facts = _facts(bench, has_peer)
        plan = subjects.chosen(_plan(bench.backends, facts.pop("has_classes", True), has_peer))
        bench.run(plan, FLAGS.rounds)
        found = {b: {NONE: bench.facts("speed", [b])} for b, case in plan if case == NONE and bench.ran(b, case)}
    rows = speed.rows(bench, found, 2, 1, FLAGS.steps)
    subjects.conclude(bench, "sampling", __doc__, "an image", facts, rows, _ratios(bench.samples, bench.backends))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
