"""sid2-distill: a student that draws in few steps, by moment matching, of a trained model.

    KERAS_BACKEND=jax sid2-distill --teacher=runs/digits --data=digits --workdir=runs/student --steps_of_student=8 \
        --guidance_scale=1.5 --guidance_interval=-3,5 --steps=20000 --learning_rate=1e-5

The teacher is a run, checkpoint, .keras file or folder of a preset; the data are such as it was trained on. Its
guidance goes into the student, which is drawn from without. The work directory is as sid2-train's: the same command
continues, sid2-sample and sid2-evaluate draw from the student, and `sid2-export --student` writes it without teacher
and auxiliary network, which --matching=parameters does without in training, too.
"""

import dataclasses
import functools

import keras

from keras_sid2 import DDPMSampler, Guidance, MomentMatching, MomentMatchingModel
from keras_sid2.bin import signals
from keras_sid2.bin.common import run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.device_flags import together
from keras_sid2.bin.flag_table import check, names, parsed
from keras_sid2.bin.model_files import InitialWeights
from keras_sid2.bin.sampling_flags import guidance_scale
from keras_sid2.bin.tables.distill import DistillFlags, check_matching
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.training import Preset
from keras_sid2.training.distillation import RECIPE

_OF_TEACHER = ("preset", "config", "set", "size", "init_from", "image_size", "given_frames")  # sid2-train's flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillSettings(DistillFlags, TrainSettings):
    """What `sid2-distill` was asked for."""

    def __post_init__(self):
        super().__post_init__()
        check(DistillSettings, self)

    proposes = False

    @functools.cached_property
    def source(self) -> InitialWeights:
        """The teacher; raises what is wrong with it."""
        found = InitialWeights(self.teacher, flag="teacher")
        if found.student_steps is not None:
            told = f"--teacher={self.teacher} is a student of {found.student_steps} steps itself"
            raise ValueError(f"{told}: give the teacher that it was made of.")
        return found

    @property
    def guidance(self) -> Guidance | None:
        interval = parsed("guidance_interval", self.guidance_interval, float)
        guidance = Guidance(guidance_scale(self.guidance_scale), interval and tuple(interval))
        if interval and not guidance.acts:
            raise ValueError("--guidance_interval does nothing at --guidance_scale=1: give a scale too.")
        return guidance if guidance.acts else None

    @property
    def how(self) -> dict:
        """The options of `MomentMatching` that are flags by their names."""
        return {name: getattr(self, name) for name in ("matching", "auxiliary_steps", "own_levels", "own_chain")}

    def experiment(self) -> Preset:
        """The teacher's network with what trains and draws its student; raises what is wrong with it."""
        if given := [name for name in _OF_TEACHER if getattr(self, name)] + ["smoke"] * self.smoke:
            raise ValueError(f"--{given[0]} is sid2-train's, and the network is that of --teacher: leave it out.")
        teacher, guidance = self.source.described, self.guidance
        if guidance is not None and not teacher.conditions:
            raise ValueError(f"--guidance_scale is away from null conditions, and --teacher={self.teacher} has none.")
        label = teacher.conditions.get("label")
        found = self.source.preset(teacher.sample_shape, getattr(label, "num_classes", None))
        check_matching(self)
        parts = {name: getattr(teacher.objective, name) for name in ("schedule", "weighting", "prediction")}
        return dataclasses.replace(
            found,
            name="student",
            description=f"a student of {self.steps_of_student} steps",
            objective=MomentMatching(**parts, steps=self.steps_of_student, guidance=guidance, **self.how),
            recipe=RECIPE,
            num_steps=self.steps_of_student,
            sampler=DDPMSampler(0.0),
        )


class DistillRun(TrainingRun):
    """A TrainingRun whose model is made of the teacher."""

    def _new_model(self) -> MomentMatchingModel:
        settings = self.asked
        keras.utils.set_random_seed(settings.seed)
        teacher = settings.source.load()
        taken = "its averages" if teacher.averages() is not None else "its weights, as it has no averages"
        self.note(f"The teacher is {settings.teacher} at step {int(teacher.step.numpy())}: {taken}.")
        dtype = {} if settings.precision == "float32" else {"dtype": settings.precision}
        model = MomentMatchingModel.of_teacher(
            teacher,
            settings.steps_of_student,
            settings.guidance,
            **settings.how,
            recipe=self.preset.recipe,
            seed=settings.seed,
            **dtype,
            **({"remat": True} if settings.remat else {}),
        )
        model.compile()
        return model

    def _unfit(self, preset: str, data: str) -> ValueError:
        return ValueError(f"--teacher={self.asked.teacher} {preset}, and --data={self.settings.data} has {data}.")


def main(values) -> int:
    """0 at the end of training; 130 after Ctrl-C and 143 after SIGTERM, when all is saved."""
    check(DistillSettings, values)
    settings = DistillSettings(**{name: getattr(values, name) for name in names(DistillSettings)})
    keep_compiled(settings.compilation_cache, settings.compile)
    signals.end_at_once("sid2-distill")
    return together("sid2-distill", settings, lambda: _train(settings))


def _train(settings: DistillSettings) -> int:
    run = DistillRun(settings)
    run.train()
    return 0 if run.stopped.by is None else 128 + run.stopped.by


run = functools.partial(run_program, main, "sid2-distill", DistillSettings)

if __name__ == "__main__":
    run()
