"""Question: what does a training step cost in others' code, on the same card, batch and multiply-adds?

    python benchmarks/peers.py --cases="ours,DiT eager" --preset=sid2_imagenet256_uvit2 \\
        --dtype=mixed_bfloat16 --batch_size=32
    python benchmarks/peers.py --backends=jax,tensorflow,torch --cases=ours,KerasCV --json=result.json

Expected: "ours" on torch at least as fast as "plain compiled", and on every backend as "KerasCV".

On torch, "plain" is our network written by hand (plain_torch.py), eager and given to torch.compile; "UNet2D" and "DiT"
are diffusers'. "ours" and "KerasCV" are `fit` of a SiD2Model on each of --backends, with our network and with that of
KerasCV's DiffusionModel (peer_keras_cv.py). The multiply-adds of others are within 5 % of our network's. All have the
same training step: noise, v-prediction, clipping, Adam, averages, and uint8 images from the host. Where diffusers, or
keras_cv with the TensorFlow that it imports, is not installed, its cases are left out.
"""

import functools
import importlib.util
import sys
import time

import bars
import harness
import report
import speed
import subjects
from absl import app, flags

FLAGS = flags.FLAGS
NETWORKS = ("plain", "UNet2D", "DiT")
CASES = [f"{network} {way}" for network in NETWORKS for way in ("eager", "compiled")]
OURS, KERAS_CV = "ours", "KerasCV"  # on every backend of Keras
NEEDS = {"UNet2D": ["diffusers"], "DiT": ["diffusers"], KERAS_CV: ["keras_cv", "tensorflow"]}
TOLERANCE = 0.05  # of the multiply-adds


def _define_flags():
    subjects.define_flags()
    flags.DEFINE_integer("batch_size", 16, "Images a batch.", lower_bound=1)
    flags.DEFINE_integer("steps", 6, "Training steps a run.", lower_bound=1)


# -- cases, in the worker ----------------------------------------------------------------------------------

_runs: dict = {}


@functools.cache
def _ours() -> tuple[dict, int]:
    """(configuration, multiply-adds an image) of the network that the flags choose, without its weights."""
    network = subjects.abstract_network()
    config = {"levels": [level.get_config() for level in network.levels]}  # network.get_config() imports TensorFlow
    config |= {name: getattr(network, name) for name in ("image_shape", "patch_size", "num_classes", "embedding_dim")}
    return config, subjects.multiply_adds_of(network)


@functools.cache
def _made(network: str) -> tuple:
    """(a function that makes the network, its multiply-adds an image); ValueError where these are not ours."""
    import plain_torch

    config, target = _ours()
    if network == "UNet2D":
        import peer_diffusers

        peer = peer_diffusers.Peer(config, target)
        return (lambda: peer_diffusers.Denoiser(peer.unet)), peer.multiply_adds
    if network == "DiT":
        import peer_dit

        shape = config["image_shape"]
        make = functools.partial(peer_dit.PixelDiT, shape, **peer_dit.sizes(shape, target))
    else:
        make = functools.partial(plain_torch.plain_network, config)
    found = plain_torch.multiply_adds(make, config["image_shape"])
    _check_cost(network, found, target)
    return make, found


def _check_cost(network: str, found: int, target: int):
    """ValueError where the two are too different."""
    if abs(found - target) > TOLERANCE * target:
        raise ValueError(f"{network} has {found} multiply-adds an image, and our network {target}.")


@functools.cache
def _keras_model(case: str):
    """A compiled SiD2Model with our network, or with KerasCV's."""
    if case == OURS:
        model = subjects.make_model()
    else:
        import keras
        import peer_keras_cv

        config, target = _ours()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(FLAGS.dtype)  # KerasCV's layers pass none on to those within
        try:
            network = peer_keras_cv.KerasCVUNet(config["image_shape"], config["num_classes"], target)
        finally:
            keras.config.set_dtype_policy(before)
        _check_cost(case, network.multiply_adds(), target)
        model = subjects.model_of(network)
    model.compile()
    return model


def keras_case(case: str):
    """`fit` of train_step.py."""
    import train_step

    _runs[case] = run = train_step.fit_case(case, _keras_model(case))
    return run


def train_case(case: str):
    """Training steps on uint8 batches of the host, in a plain loop."""
    import torch
    from plain_torch import Trainer

    network, way = case.split()
    torch.manual_seed(0)
    shape, classes = (_ours()[0][name] for name in ("image_shape", "num_classes"))
    make, _ = _made(network)
    batches = [subjects.images(shape, classes, FLAGS.batch_size, seed) for seed in range(FLAGS.steps)]
    begun = time.perf_counter()
    trainer = Trainer(make(), classes, FLAGS.dtype, way == "compiled")
    harness.block(trainer.step(*batches[0]))
    speed.first_seconds[case] = time.perf_counter() - begun

    def run() -> dict:
        start = harness.now()
        losses = [trainer.step(*batch) for batch in batches]
        harness.block(losses)
        return {**harness.since(start), "units": len(batches), "loss": float(losses[-1])}

    run()
    _runs[case] = run
    return run


def _make_case(name: str):
    if name in CASES:
        return train_case(name)
    if name in (OURS, KERAS_CV):
        return keras_case(name)
    case = name.removeprefix("speed ")
    profiled = (case, FLAGS.steps, "a step", _runs[case]) if FLAGS.profile else None
    if case in CASES:
        return speed.facts_case(lambda: _made(case.split()[0])[1], profiled)
    return speed.facts_case(lambda: subjects.multiply_adds_of(_keras_model(case).network), profiled)


# -- the table, in the parent ------------------------------------------------------------------------------


def _plan(backends: list[str]) -> list[tuple[str, str]]:
    """Every (backend, case)."""
    return [(b, case) for b in backends for case in (OURS, KERAS_CV, *(CASES if b == "torch" else ()))]


def _installed(bench: harness.Bench, plan: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the cases whose packages are not here, which is said."""
    needed = {case: NEEDS.get(case.split()[0], []) for _, case in plan}
    every = sorted({name for names in needed.values() for name in names})
    missing = [name for name in every if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Not installed, left out: {', '.join(missing)}.", flush=True)
        bench.skipped += missing
    return [(backend, case) for backend, case in plan if not set(missing).intersection(needed[case])]


def _ratios(samples: list[dict], plan: list[tuple[str, str]]) -> list[dict]:
    """Our time to each of the others' on the same backend, and on others to those of plain torch."""
    rows = [report.ratio(samples, f"{b}: ours / {case}", (b, OURS), (b, case)) for b, case in plan if case != OURS]
    away = [(b, case) for b in dict(plan) if b != "torch" for _, case in plan if case in CASES]
    rows += [report.ratio(samples, f"{b}: ours / {case} on torch", (b, OURS), ("torch", case)) for b, case in away]
    return [row for row in rows if row is not None]


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    with subjects.open_bench(__file__, sys.argv[1:]) as bench:
        plan = _installed(bench, subjects.chosen(_plan(bench.backends)))
        bench.run(plan, FLAGS.rounds)
        found = {backend: {} for backend in bench.backends}
        for backend, case in plan:
            if bench.ran(backend, case):
                found[backend][case] = bench.facts(f"speed {case}", [backend])
    rows = speed.rows(bench, found, 6, FLAGS.batch_size)
    facts = {"batch size": FLAGS.batch_size, "steps a run": FLAGS.steps}
    result = subjects.conclude(bench, "peers", __doc__, "a step", facts, rows, _ratios(bench.samples, plan))
    bars.draw(result, FLAGS.json)


if __name__ == "__main__":
    _define_flags()
    FLAGS.set_default("backends", ["torch"])
    app.run(main)
