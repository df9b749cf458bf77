"""Students of few steps, as distillation makes them: what they draw by where nobody says how."""

import warnings

from keras_sid2.sampling import DDPMSampler

USUAL_STEPS = 512  # the paper's


def steps_and_sampler(request) -> tuple:
    """(num_steps, sampler) of a SampleRequest, filled in where None. UserWarning where a student, which was distilled
    for a number of steps with its teacher's guidance inside, is asked for other steps or guidance."""
    steps, sampler, own = request.num_steps, request.sampler, request.model.student_steps
    if own is None:
        return USUAL_STEPS if steps is None else steps, "ddpm" if sampler is None else sampler
    told = f"This model is a student of {own} steps"
    if steps not in (None, own):
        warnings.warn(f"{told}, and num_steps={steps} is asked for: leave num_steps out.", stacklevel=4)
    if request.guidance.acts:
        inside = "whose guidance is its teacher's, inside it"
        warnings.warn(f"{told}, {inside}: leave guidance={request.guidance.scale} out.", stacklevel=4)
    return own if steps is None else steps, DDPMSampler(0.0) if sampler is None else sampler
