import dataclasses

import keras
import pytest

from keras_sid2 import AdamRecipe, Guidance, Level, conditions, diffusion, sampling

pytestmark = pytest.mark.backend_free

SETTINGS = [
    AdamRecipe(decay="cosine", decay_steps=20_000, ema_widths=(0.05, 0.1)),
    Guidance(1.5, (-3.0, 5.0)),
    Level("transformer", 64, 2, dropout=0.1),
    diffusion.CosineInterpolatedSchedule(256, low=32.0),
    diffusion.CosineSchedule(-12.0, 11.0),
    diffusion.ShiftedCosineSchedule(64, 256),
    diffusion.ConstantEpsWeighting(),
    diffusion.ConstantVWeighting(),
    diffusion.ConstantXWeighting(),
    diffusion.EDMMonotonicWeighting(),
    diffusion.EDMWeighting(),
    diffusion.DiffusionObjective(diffusion.CosineSchedule(), diffusion.SigmoidWeighting(-1.0), "x"),
    diffusion.SigmoidWeighting(-1.0),
    conditions.ClassLabel(3),
    conditions.Image((4, 4, 2)),
    conditions.TextEmbedding(5, 8),
    conditions.Vector(2),
    diffusion.ScaleCurve(((-3.0, 1.0), (5.0, 2.5))),
    sampling.DDIMSampler(0.5),
    sampling.DPMSolver2MSampler(),
    sampling.EDMHeunSampler(churn=0.2),
    sampling.HeunSampler(),
    sampling.DDPMSampler(0.3),
]
all_settings = pytest.mark.parametrize("value", SETTINGS, ids=lambda value: type(value).__name__)


@all_settings
def test_settings_round_trip_through_a_file_s_configuration(value):
    config = keras.saving.serialize_keras_object(value)
    copy = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(copy) is type(value) and copy == value and hash(copy) == hash(value)


@all_settings
def test_settings_are_frozen(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_the_list_is_complete():
    """Every settings class of the public packages is above."""
    public = [getattr(package, name) for package in (diffusion, sampling) for name in package.__all__]
    settings = {c for c in public if dataclasses.is_dataclass(c) and hasattr(c, "from_config")}
    assert settings <= {type(value) for value in SETTINGS}
