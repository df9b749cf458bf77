import pytest
from helpers import randomize
from training_helpers import tiny_model


@pytest.fixture(scope="module")
def model():
    """A model of 4 x 4 images of 3 classes, whose averages are not its weights."""
    model = tiny_model()
    randomize(model.network)
    model.reset_averages()
    model.step.assign(4)
    for average in model.averages():
        average.assign(0.3 * average.value)  # so that few pixels are clipped
    return model
