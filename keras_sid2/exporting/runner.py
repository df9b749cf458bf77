"""Draws samples with the exported step in this file's folder: numpy and the runtime of the step's format are enough.

    python runner.py --labels=0,1,2 --num_steps=256 --guidance=1.5 --interval=-3,5 --seed=0 --out=images.npy

or, in Python, Runner("folder").generate({"label": [0, 1, 2]}, num_steps=256, seed=0), which gives what keras_sid2's
`model.generate` gives with the same arguments, to one grey level. Runtimes: tensorflow for savedmodel, onnxruntime for
onnx, torch for torch, jax for jax.

Noise is Threefry-2x32 (Salmon et al., SC 2011) of (seed, example, step); samplers and guidance are those of
keras_sid2.sampling, which says where they come from.
"""

import argparse
import functools
import json
import math
import pathlib

import numpy as np

_SAMPLE = 2  # the stream of a seed that samples are drawn from
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_INFINITE = (-math.inf, math.inf)

# -- noise -----------------------------------------------------------------------------------------------------------


def threefry2x32(key0, key1, x0, x1):
    """Two words uint32 from two, under a key of two words; arrays that broadcast together."""
    key0, key1, x0, x1 = (np.atleast_1d(np.asarray(word, "uint32")) for word in (key0, key1, x0, x1))
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + key0, x1 + key1
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(bits) | x1 >> np.uint32(32 - bits)) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def keys_of(seed: int, numbers) -> tuple:
    """The keys of examples by their numbers [B]: two words uint32 [B]."""
    return threefry2x32(seed, _SAMPLE, numbers, 0)


def normal(keys: tuple, shape: tuple[int, ...], index: int) -> np.ndarray:
    """float32 [B, *shape] from N(0, 1), by Box and Muller."""
    size = math.prod(shape)
    words = threefry2x32(keys[0][:, None], keys[1][:, None], np.arange((size + 1) // 2), index)
    first, second = ((w >> np.uint32(8)).astype("float32") * np.float32(2.0**-24) + np.float32(2.0**-25) for w in words)
    radius, angle = np.sqrt(np.float32(-2.0) * np.log(first)), np.float32(2.0 * math.pi) * second
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return values[:, :size].reshape(-1, *shape)


# -- noise levels: logsnr float32 [num_steps + 1], rising ------------------------------------------------------------


def logsnr_at(schedule: dict, t: np.ndarray) -> np.ndarray:
    """The cosine schedule between its ends, and its shift, straight between those at t = 0 and 1."""
    b = math.atan(math.exp(-0.5 * schedule["logsnr_max"]))
    a = math.atan(math.exp(-0.5 * schedule["logsnr_min"])) - b
    cosine = np.float32(-2.0) * np.log(np.tan(np.float32(a) * t + np.float32(b)))
    clean, noisy = np.float32(schedule["shift_at_0"]), np.float32(schedule["shift_at_1"])
    return cosine + (np.float32(1.0) - t) * clean + t * noisy


def levels_of(name: str, schedule: dict, num_steps: int, rho: float = 7.0) -> np.ndarray:
    """ "uniform_t", "uniform_logsnr" or "edm_rho"."""
    t = np.linspace(1.0, 0.0, num_steps + 1, dtype="float32")
    logsnr = logsnr_at(schedule, t)
    if name == "uniform_t":
        return logsnr
    noisy, clean = logsnr[[0, -1]].astype("float64")
    if name == "uniform_logsnr":
        return np.linspace(noisy, clean, num_steps + 1).astype("float32")
    ends = np.exp(-0.5 * noisy / rho), np.exp(-0.5 * clean / rho)
    logsnr = -2.0 * rho * np.log(np.linspace(*ends, num_steps))
    return np.append(logsnr, logsnr[-1]).astype("float32")


LEVELS = ("uniform_t", "uniform_logsnr", "edm_rho")

# -- samplers: (denoise, z_t, carry, t, s, noise, settings) -> (z_s, x_hat, carry), levels t and s in logsnr ---------


def alpha_sigma(logsnr):
    one = np.float32(1.0)
    return np.sqrt(one / (one + np.exp(-logsnr))), np.sqrt(one / (one + np.exp(logsnr)))


def flow(z_t, x, t, s):
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    return alpha_s * x + sigma_s / sigma_t * (z_t - alpha_t * x)


def ddpm(denoise, z_t, carry, t, s, noise, *, variance=0.2):
    x_hat, c = denoise(z_t, t), -np.expm1(t - s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    mean = alpha_s * (z_t * (np.float32(1.0) - c) / alpha_t + c * x_hat)
    lower, upper = sigma_s**2 * c, sigma_t**2 * c
    deviation = np.sqrt(lower ** np.float32(1.0 - variance) * upper ** np.float32(variance))
    return mean + deviation * noise(), x_hat, carry


def ddim(denoise, z_t, carry, t, s, noise, *, eta=0.0):
    x_hat = denoise(z_t, t)
    if not eta:
        return flow(z_t, x_hat, t, s), x_hat, carry
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    c, eta = -np.expm1(t - s), np.float32(eta)
    mixed = np.sqrt(np.float32(1.0) - eta**2 * c) * (z_t - alpha_t * x_hat) / sigma_t + eta * np.sqrt(c) * noise()
    return alpha_s * x_hat + sigma_s * mixed, x_hat, carry


def heun(denoise, z_t, carry, t, s, noise):
    x_hat = denoise(z_t, t)
    x_hat_s = denoise(flow(z_t, x_hat, t, s), s)
    return flow(z_t, np.float32(0.5) * (x_hat + x_hat_s), t, s), x_hat_s, carry


def edm_heun(denoise, z_t, carry, t, s, noise, *, churn=0.0, noise_range=(0.05, 50.0), noise_scale=1.003):
    if churn and noise_range[0] <= np.exp(np.float32(-0.5) * t) <= noise_range[1]:
        u = t - np.float32(2.0 * math.log1p(churn))
        (alpha_t, _), (alpha_u, sigma_u) = alpha_sigma(t), alpha_sigma(u)
        z_t = alpha_u / alpha_t * z_t + np.float32(noise_scale) * sigma_u * np.sqrt(-np.expm1(u - t)) * noise()
        t = u
    x_hat = denoise(z_t, t)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    eps_t = (z_t - alpha_t * x_hat) / sigma_t
    z_s = alpha_s * x_hat + sigma_s * eps_t
    x_hat_s = denoise(z_s, s)
    eps_s = (z_s - alpha_s * x_hat_s) / sigma_s
    return z_s + np.float32(0.5) * (sigma_s - alpha_s * sigma_t / alpha_t) * (eps_s - eps_t), x_hat_s, carry


def dpmpp_2m(denoise, z_t, carry, t, s, noise):
    x_hat, h = denoise(z_t, t), s - t
    x = x_hat if carry is None else x_hat + np.float32(0.5) * h / carry[1] * (x_hat - carry[0])
    return flow(z_t, x, t, s), x_hat, (x_hat, h) if h else None


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "edm_heun": edm_heun, "dpmpp_2m": dpmpp_2m}

# -- the four runtimes: load(folder, about, name) -> function(inputs by name) -> {"x_hat", "z_s"} as numpy -----------


def _savedmodel(folder: pathlib.Path, about: dict, name: str):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "savedmodel" / "1"))
    signature = loaded.signatures[name]

    def run(inputs, keep=loaded):  # the signature alone does not hold its variables
        found = signature(**{key: tf.constant(values) for key, values in inputs.items()})
        return {key: value.numpy() for key, value in found.items()}

    return run


def _onnx(folder: pathlib.Path, about: dict, name: str):
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=providers)
    outputs = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def _torch(folder: pathlib.Path, about: dict, name: str):
    import torch

    function = torch.export.load(str(folder / f"{name}.pt2")).module()
    weights = [torch.from_numpy(values) for values in _weights(folder, about)]

    def run(inputs):
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(inputs[key])) for key in about["inputs"][name]
        }  # in order
        with torch.no_grad():
            found = function(weights, tensors)
        return {key: value.numpy() for key, value in found.items()}

    return run


def _jax(folder: pathlib.Path, about: dict, name: str):
    import jax

    function = jax.jit(jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes())).call)
    weights = [jax.numpy.asarray(values) for values in _weights(folder, about)]
    return lambda inputs: {key: np.asarray(value) for key, value in function(weights, inputs).items()}


def _weights(folder: pathlib.Path, about: dict) -> list[np.ndarray]:
    path = folder / "weights.bin"
    read = functools.partial(np.fromfile, path, "<f4")
    return [read(math.prod(w["shape"]), offset=w["offset"]).reshape(w["shape"]) for w in about["weights"]]


RUNTIMES = {"savedmodel": _savedmodel, "onnx": _onnx, "torch": _torch, "jax": _jax}


class Runner:
    """An exported step; `about` is its step.json. Runtimes are imported, and programs read, when they are needed."""

    def __init__(self, folder=pathlib.Path(__file__).parent):
        self.folder = pathlib.Path(folder)
        self.about = json.loads((self.folder / "step.json").read_text())
        self.shape = tuple(self.about["sample_shape"])

    @functools.cached_property
    def plain(self):
        return RUNTIMES[self.about["format"]](self.folder, self.about, "plain")

    @functools.cached_property
    def guided(self):
        return RUNTIMES[self.about["format"]](self.folder, self.about, "guided")

    def generate(
        self,
        conditions=None,
        *,
        num_images=None,
        num_steps=None,
        sampler=None,
        guidance=1.0,
        interval=None,
        negative_conditions=None,
        noise_levels="uniform_t",
        seed=0,
        first_image=0,
        batch_size=64,
        dtype=None,
    ) -> np.ndarray:
        """Images uint8 [N, H, W, C], or "float32" in [-1, 1]; fields float32 in their units.

        Args: as `model.generate` of keras_sid2, but for
            conditions: values [N, ...] by name, also "label"; one value serves all samples.
            sampler: a name, or settings, such as {"name": "ddim", "eta": 0.5}.
            guidance, interval: a number, and (low, high) in logsnr.

        Raises ValueError for what does not fit the model, FloatingPointError for samples that are not finite.
        """
        num_steps = self.about["num_steps"] if num_steps is None else num_steps
        _check_whole("num_images", 1 if num_images is None else num_images, 1)
        _check_whole("num_steps", num_steps, 1)
        _check_whole("batch_size", batch_size, 1)
        _check_whole("seed", seed, 0, 2**32 - 1)
        _check_guidance(guidance, interval)
        _check("dtype", dtype, (None, "float32") if self.about["channels"] else (None, "uint8", "float32"))
        if negative_conditions and guidance == 1.0:
            raise ValueError("negative_conditions do nothing at guidance 1: give a scale too.")
        given, count = self._given(conditions, num_images)
        _check_whole("first_image", first_image, 0, 2**31 - 1 - count)
        sampler = {"name": sampler} if isinstance(sampler, str) else dict(sampler or self.about["sampler"])
        name = sampler.pop("name", None)
        _check("sampler", name, SAMPLERS)
        _check("noise_levels", noise_levels, LEVELS)
        step = functools.partial(SAMPLERS[name], **_settings(name, sampler))
        logsnr = levels_of(noise_levels, self.about["schedule"], num_steps)
        low, high = _INFINITE if interval is None else interval
        guided = range(0)
        if guidance != 1.0:
            first, last = (np.searchsorted(logsnr[:-1], *end) for end in ((low, "left"), (high, "right")))
            guided, given = range(int(first), int(last)), given | self._negative(given, negative_conditions, count)
        found = []
        for start in range(0, count, batch_size):
            batch = {name: values[start : start + batch_size] for name, values in given.items()}
            numbers = first_image + np.arange(start, min(start + batch_size, count))
            found.append(self._draw(step, logsnr, guided, guidance, batch, keys_of(seed, numbers)))
        return self._stored(np.concatenate(found), dtype)

    def _draw(self, step, logsnr, guided, guidance, batch, keys) -> np.ndarray:
        """x_hat float32 [B, ...] after the last step."""
        carry, z = None, normal(keys, self.shape, 0)
        x_hat = z
        for i, (t, s) in enumerate(zip(logsnr[:-1], logsnr[1:], strict=True)):
            if i in (guided.start, guided.stop):
                carry = None  # of another denoise function
            denoise = functools.partial(self._denoise, batch, guidance if i in guided else None)
            z, x_hat, carry = step(denoise, z, carry, t, s, lambda i=i: normal(keys, self.shape, i + 1))
        return x_hat

    def _denoise(self, batch: dict, guidance, z, logsnr) -> np.ndarray:
        level = np.full(len(z), logsnr, "float32")
        inputs = {**batch, "z_t": z.astype("float32"), "logsnr_t": level, "logsnr_s": level}
        if guidance is None:
            return self.plain({n: v for n, v in inputs.items() if not n.startswith("negative_")})["x_hat"]
        inputs["scale"] = np.full(len(z), guidance, "float32")
        inputs["interval"] = np.broadcast_to(np.float32(_INFINITE), (len(z), 2)).copy()  # it is known which steps are
        return self.guided(inputs)["x_hat"]

    def _stored(self, x, dtype):
        if not np.isfinite(x).all():
            raise FloatingPointError("Samples are not finite.")
        if channels := self.about["channels"]:
            return x * np.float32(channels["std"]) + np.float32(channels["mean"])
        x = np.clip(x, -1.0, 1.0)
        return x if dtype == "float32" else np.round((x + np.float32(1.0)) * np.float32(127.5)).astype("uint8")

    def _given(self, conditions, count) -> tuple[dict, int]:
        """Values [N, ...] of all conditions, null where none are given, and N."""
        known, conditions = self.about["conditions"], dict(conditions or {})
        for name in conditions:
            _check("conditions", name, known)
        found = {name: _checked(name, known[name], values) for name, values in conditions.items()}
        counts = {len(v) for v in found.values()} - {1} | ({count} if count else set())
        counts = counts or {len(v) for v in found.values()}
        if len(counts) != 1:
            told = ", ".join(map(str, sorted(counts))) or "none"
            raise ValueError(f"Conditions must have one value a sample, or num_images be given; got {told}.")
        count = counts.pop()
        found |= {name: _null(about, 1) for name, about in known.items() if name not in found}
        return {name: np.broadcast_to(v, (count, *v.shape[1:])) for name, v in found.items()}, count

    def _negative(self, given: dict, negative, count: int) -> dict:
        """What guidance leads away from: the null values of what training drops, where nothing is given."""
        known, negative = self.about["conditions"], dict(negative or {})
        for name in negative:
            _check("negative_conditions", name, known)
        if not known:
            raise ValueError("Guidance needs conditions to be guided by, and this model has none.")
        found = {name: _null(about, 1) if about["guided"] else given[name] for name, about in known.items()}
        found |= {name: _checked(name, known[name], values) for name, values in negative.items()}
        return {f"negative_{name}": np.broadcast_to(v, (count, *v.shape[1:])) for name, v in found.items()}


def _check(what: str, name, known):
    if name not in known:
        raise ValueError(f"{what} must be among {', '.join(map(str, known)) or 'none'}, got {name!r}.")


def _check_whole(what: str, value, low: int, high: int | None = None):
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        raise ValueError(f"{what} must be an integer from {low}{'' if high is None else f' to {high}'}, got {value!r}.")


def _settings(sampler: str, given: dict) -> dict:
    known = SAMPLERS[sampler].__kwdefaults__ or {}
    for name, value in given.items():
        _check(f"A setting of {sampler}", name, known)
        most = 1 if name in ("variance", "eta") else math.inf
        if name != "noise_range" and not (_is_number(value) and 0 <= value <= most):
            wanted = "a number from 0 to 1" if most == 1 else "a number >= 0"
            raise ValueError(f"{name} of {sampler} must be {wanted}, got {value!r}.")
    return given


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _check_guidance(scale, interval):
    if not _is_number(scale) or not 0 <= scale < math.inf:
        raise ValueError(f"guidance must be a finite number >= 0 (1 is none), got {scale!r}.")
    ends = () if interval is None else tuple(interval)
    if interval is not None and (len(ends) != 2 or not all(map(_is_number, ends)) or not ends[0] < ends[1]):
        raise ValueError(f"interval must be (low, high) in logsnr with low < high, got {interval!r}.")


def _null(about: dict, count: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(about["null"], about["dtype"]), (count, *about["shape"]))


def _checked(name: str, about: dict, values) -> np.ndarray:
    """Values [N, ...] as people give them, as the network gets them."""
    values, shape = np.asarray(values), tuple(about["shape"])
    values = values[None] if values.ndim == len(shape) else values
    if about["kind"] == "ClassLabel":
        if values.ndim != 1 or values.dtype.kind not in "iu" or not ((values >= 0) & (values < about["null"])).all():
            raise ValueError(f"{name} must be integers from 0 to {about['null'] - 1}, one a sample, got {values}.")
        return values.astype("int32")
    frames = about.get("given")
    wanted = shape if frames is None else (*values.shape[1:2], *shape[1:-1], shape[-1] - 1)
    least, most = frames or (0, 0)
    if values.shape[1:] != wanted or (frames and not least <= wanted[0] <= most and wanted[0] != shape[0]):
        told = list(shape) if frames is None else f"{least} to {most} frames {list(wanted[1:])}"
        raise ValueError(f"{name} must be one a sample of shape {told}, got {list(values.shape)}.")
    values = _standard(name, about, values)
    if frames is None:
        return values
    values = values[:, :most]
    marked = np.concatenate([values, np.ones((*values.shape[:-1], 1), "float32")], axis=-1)
    return np.pad(marked, [(0, 0), (0, shape[0] - values.shape[1]), *[(0, 0)] * 3])


def _standard(name: str, about: dict, values) -> np.ndarray:
    """Grey levels in [-1, 1], values of channels standardised, others as they are; finite."""
    floats, channels = values.dtype.kind == "f", about["channels"]
    if channels:
        if not floats:
            raise ValueError(f"{name} must be float, in the units of its channels, got {values.dtype}.")
        values = (values - np.float32(channels["mean"])) / np.float32(channels["std"])
    elif values.dtype == np.uint8 and about["kind"] in ("Image", "Frames"):
        values = values.astype("float32") / 127.5 - 1.0
    elif about["kind"] == "Frames" and not (floats and (np.abs(values) <= 1.0).all()):
        raise ValueError(f"{name} must be uint8 or float in [-1, 1], got {values.dtype}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite.")
    return values.astype(about["dtype"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    numbers = lambda kind: lambda text: [kind(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--labels", type=numbers(int), help="with commas between")
    parser.add_argument("--conditions", help="an .npz file of values [N, ...] by name")
    for name, kind in (("num_images", int), ("num_steps", int), ("seed", int), ("batch_size", int)):
        parser.add_argument(f"--{name}", type=kind, default={"seed": 0, "batch_size": 64}.get(name))
    parser.add_argument("--sampler", choices=SAMPLERS)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--interval", type=numbers(float), help="low,high in logsnr")
    parser.add_argument("--out", required=True, help="an .npy file")
    values = vars(parser.parse_args())
    out, labels, file = (values.pop(name) for name in ("out", "labels", "conditions"))
    try:
        conditions = dict(np.load(file, allow_pickle=False)) if file else {}
        if labels is not None:
            conditions["label"] = labels
        images = Runner().generate(conditions, **values)
        np.save(out, images, allow_pickle=False)
    except (ValueError, OSError, FloatingPointError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
