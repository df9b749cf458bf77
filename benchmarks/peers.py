"""Question: what does a training step cost in others' code, on the same card, batch and multiply-adds?

    python benchmarks/peers.py --cases="DiT eager" --preset=sid2_imagenet256_uvit2 \\
        --dtype=mixed_bfloat16 --batch_size=32

Expected: `fit` of train_step.py on torch at least as fast as "plain compiled".

"plain" is our network written by hand in torch (plain_torch.py), eager and given to torch.compile; "UNet2D" and "DiT"
are diffusers', whose multiply-adds are within 5 % of our network's; without diffusers they are left out. All have the
same training step: noise, v-prediction, clipping, Adam, averages, and uint8 images from the host. KerasCV's
DiffusionModel is not among them yet: importing keras_cv imports TensorFlow, whatever the backend.
"""

import functools
import importlib.util
import sys
import time

import harness
import speed
import subjects
from absl import app, flags

FLAGS = flags.FLAGS
NETWORKS = ("plain", "UNet2D", "DiT")
CASES = [f"{network} {way}" for network in NETWORKS for way in ("eager", "compiled")]


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
    if abs(found - target) > 0.05 * target:
        raise ValueError(f"{network} has {found} multiply-adds an image, and our network {target}.")
    return make, found


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
    case = name.removeprefix("speed ")
    profiled = (case, FLAGS.steps, "a step", _runs[case]) if FLAGS.profile else None
    return speed.facts_case(lambda: _made(case.split()[0])[1], profiled)


# -- the table, in the parent ------------------------------------------------------------------------------


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    if FLAGS.backends != ["torch"]:
        raise SystemExit(
            f"peers.py measures what is written in torch: --backends=torch, not {','.join(FLAGS.backends)}."
        )
    with subjects.open_bench(__file__, sys.argv[1:]) as bench:
        plan = subjects.chosen([(backend, case) for backend in bench.backends for case in CASES])
        if importlib.util.find_spec("diffusers") is None and any("plain" not in case for _, case in plan):
            print("Not installed, left out: diffusers.", flush=True)
            bench.skipped.append("diffusers")
            plan = [(backend, case) for backend, case in plan if case.startswith("plain")]
        bench.run(plan, FLAGS.rounds)
        found = {case: bench.facts(f"speed {case}") for backend, case in plan if bench.ran(backend, case)}
    rows = speed.rows(bench, {"torch": found}, 6, FLAGS.batch_size)
    facts = {"batch size": FLAGS.batch_size, "steps a run": FLAGS.steps}
    subjects.conclude(bench, "peers", __doc__, "a step", facts, rows)


if __name__ == "__main__":
    _define_flags()
    FLAGS.set_default("backends", ["torch"])
    app.run(main)
