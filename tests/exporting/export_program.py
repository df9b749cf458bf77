"""Exports the model at argv[1] into the folder argv[2] as the format argv[3]: `python export_program.py ...`."""

import sys

from keras_sid2.checkpoints import load_model

if __name__ == "__main__":
    load_model(sys.argv[1]).export(sys.argv[2], sys.argv[3])
