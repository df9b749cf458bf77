"""Images that are not finite: NaN would be stored as black, which nobody tells from a dark picture."""

import numpy as np

_NAMED = 3  # images and weights in the sentence; the attributes have all of them


class NonFiniteImages(FloatingPointError):
    """A SampleRequest came to NaN or infinite values; nothing of the batch was handed out.

    Attributes:
        step: of the sampler, counted from 1, from which on they are not finite, of `num_steps`.
        logsnr: at the beginning of that step.
        seed: of the request.
        images: numbers of the images, counted as `first_image`; labels: their classes, null where they have none.
        weights: paths of the weights that are not finite themselves.
    """

    def __init__(self, message: str, **attributes):
        super().__init__(message)
        self.__dict__.update(attributes)


def non_finite_images(request, numbers: np.ndarray, step: int, weights: list[str]) -> NonFiniteImages:
    """The error of a SampleRequest whose images `numbers` are not finite from `step`, counted from 0, on."""
    images, labels = numbers.tolist(), request.labels[numbers - request.first_image].tolist()
    found = {"step": step + 1, "num_steps": request.num_steps, "logsnr": float(request.logsnr[step])}
    found |= {"seed": request.seed, "images": images, "labels": labels, "weights": weights}
    plural = "s" * (len(images) > 1)
    which = f"image{plural} {_few(images)}"
    which += f" (label{plural} {_few(labels)})" if request.model.num_classes else ""
    dtype = getattr(getattr(request.model.network, "dtype_policy", None), "name", "unknown")
    cause = "Usual causes: float16 or guidance that overflows; a sampler or a network of one's own."
    return NonFiniteImages(
        f"{which} of seed {request.seed} became NaN or infinite in step {step + 1} of {request.num_steps}, at logsnr "
        f"{found['logsnr']:.4g} (sampler {request.sampler}, network in {dtype}). "
        f"{f'The weights are not finite: {_few(weights)}.' if weights else cause}",
        **found,
    )


def _few(values: list) -> str:
    more = len(values) - _NAMED
    return ", ".join(map(str, values[:_NAMED])) + (f" and {more} more" if more > 0 else "")
