"""The flags of sid2-distill."""

import dataclasses

from keras_sid2.bin.flag_table import REQUIRED, at_least, one_of
from keras_sid2.bin.tables.train import TrainTable, of_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillFlags(TrainTable):
    teacher: str = of_run(REQUIRED, "a run, checkpoint, .keras file, preset's folder or hf://user/name")
    steps_of_student: int = of_run(8, "that it will draw in", at_least(1))
    matching: str = of_run(
        "auxiliary", "auxiliary, or parameters: without an auxiliary network", one_of("auxiliary", "parameters")
    )
    auxiliary_steps: int = of_run(1, "of the auxiliary network, to each of the student's", at_least(1))
    own_levels: bool = of_run(False, "train at the k noise levels that the student draws at, where the paper has all")
    own_chain: bool = of_run(False, "train on z_t of the student's own steps, not of data", needs="own_levels")
    guidance_scale: str = of_run("1", "of the teacher; 1 is none; or logsnr:scale pairs, as -3:1,0:2.5,5:1")
    guidance_interval: list | None = of_run(None, "of the teacher: low,high in logsnr; everywhere if not given")
    lr_decay: str | None = of_run("linear", "constant, inverse_sqrt, or linear or cosine to 0 at --steps")


def check_matching(values):
    """ValueError for what does not go with --matching=parameters, in the flags of sid2-distill or sid2-plan."""
    if values.matching == "auxiliary":
        return
    found = [f"--{name}={getattr(values, name, 1)}" for name in ("auxiliary_steps", "accumulation_steps")]
    faults = [text for text in found if not text.endswith("=1")]
    faults += [f"--precision={values.precision}"] * (values.precision != "float32")
    faults += [f"--batch_size={values.batch_size}, which is odd"] * ((values.batch_size or 2) % 2)
    if faults:
        raise ValueError(f"--matching=parameters does not go with {faults[0]}: leave it out, or --matching.")
