"""The flags of sid2-export."""

import dataclasses

from keras_sid2.bin.flag_table import REQUIRED, flag, one_of
from keras_sid2.starting import EXPORT_BACKENDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFlags:
    workdir: str = flag(REQUIRED, "work directory of sid2-train; with --format also a .keras file or a preset's folder")
    step: int | None = flag(None, "of the checkpoint; that of the newest valid one if not given")
    out: str = flag(REQUIRED, "path of the .keras file, or with another --format of a folder")
    format: str = flag("keras", f"keras, or {', '.join(EXPORT_BACKENDS)}", one_of("keras", *EXPORT_BACKENDS))
    student: bool = flag(False, "of a run of sid2-distill the student alone, which sid2-sample and generate draw from")
    config: str | None = flag(None, "the --config file of sid2-train that defines the network's class")
    overwrite: bool = flag(False, "write over a file, or an exported folder, that is there")
