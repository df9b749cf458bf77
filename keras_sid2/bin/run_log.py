"""What a training run tells while it goes on: the progress line, TensorBoard, and where its time goes."""

from typing import TYPE_CHECKING

from keras_sid2 import backend
from keras_sid2.bin.common import ProgressLine
from keras_sid2.bin.goodput import Goodput, peak_of
from keras_sid2.io.atomic import drop_lines_after

if TYPE_CHECKING:
    from keras_sid2.bin.training_run import TrainingRun


def _peak(run: "TrainingRun") -> float | None:
    """Operations a second of all devices: those of --peak_tflops, or of the table."""
    if run.settings.peak_tflops is not None:
        return run.settings.peak_tflops * 1e12
    return peak_of(backend.device_kind(), run.mesh.size)


class RunLog:
    """The progress line, TensorBoard, and the clock between them."""

    def __init__(self, run: "TrainingRun", step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(run.output / "tensorboard"), purge_step=step + 1 if step else None)
        self._line = ProgressLine(run.console, "train", run.settings.steps)
        self._line.advance_to(step)
        self._console = run.console
        self._bad_records = run.bad_records
        drop_lines_after(run.output / "goodput.jsonl", step)
        self.goodput = Goodput(
            run.output / "goodput.jsonl", multiply_adds=run.preset.cost.multiply_adds, peak=_peak(run)
        )

    def window(self, step: int, values: dict[str, float]):
        waited = values.pop("waited_seconds")
        metrics = {name: value for name, value in values.items() if name not in ("images_per_second", "waiting")}
        self.goodput.line(step, metrics, images_per_second=values["images_per_second"], waited=waited)
        skipped = self._bad_records.count
        self.scalars(step, {f"train/{name}": value for name, value in {**values, "bad_records": skipped}.items()})
        self._line.say(
            step,
            f"loss {values['loss']:.4f}  {values['images_per_second']:.0f} images/s  "
            f"waiting for data {100 * values['waiting']:.1f} %" + f"  {skipped} bad records skipped" * bool(skipped),
        )

    def scalars(self, step: int, values: dict[str, float]):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def measured(self, step: int, figures: dict[str, float]):
        self.scalars(step, {f"samples/{name}": value for name, value in figures.items()})
        told = "{frechet:.4g} ({frechet_low:.4g} to {frechet_high:.4g})".format(**figures)
        self.note(f"step {step}: Frechet distance of samples {told}")

    def image(self, name: str, picture, step: int):
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def note(self, text: str):
        self._console.print(text, highlight=False)

    def __enter__(self):
        self._line.__enter__()
        return self

    def __exit__(self, *error):
        self._line.__exit__(*error)
        self._writer.close()
