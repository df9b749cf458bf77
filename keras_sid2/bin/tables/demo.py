"""The flags of sid2-demo."""

import dataclasses

from keras_sid2.bin.flag_table import at_least, flag
from keras_sid2.bin.tables.shared import CacheFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoFlags(CacheFlags):
    workdir: str = flag("runs/digits", "folder of the run")
    steps: int = flag(1500, "training steps", at_least(1))
    num_steps: int = flag(128, "sampler steps", at_least(1))
    seed: int = flag(0, "of everything random")
