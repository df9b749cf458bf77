"""What completes command lines, in a real bash, as its readline calls it."""

import os
import shutil
import subprocess

import pytest

from keras_sid2.bin.completion import SHELLS, script
from pipelines.programs import PROGRAMS

pytestmark = pytest.mark.backend_free

TRY = """
source "$1"
complete -p sid2 sid2-train > /dev/null || exit 1
shift
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE}
    spread=${COMP_LINE//=/ = }  # words break at =, too
    read -ra COMP_WORDS <<< "$spread"
    [[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _sid2
    echo "${COMPREPLY[*]}"
done
"""
LINES = {
    "sid2 ev": "evaluate",
    "sid2 --pr": "--print_completion=",
    "sid2 --print_completion=z": "zsh",
    "sid2 train --log_": "--log_every= --log_to=",
    "/usr/bin/sid2-train --log_ev": "--log_every=",
    "sid2-train --precision=": "float32 mixed_bfloat16",
    "sid2 sample --backend=t": "tensorflow torch",
    "sid2-plan --backend=": "",  # that it plans for: the names are in its help
    "sid2-train --rem": "--remat",  # takes no value
    "sid2-data ver": "verify",
    "sid2-data prepare --annot": "--annotations=",
    "sid2-sample --known=fo": "four.png",
    "sid2-train --nothing": "",
}


def test_bash_completes_programs_flags_values_and_files(tmp_path):
    (tmp_path / "four.png").touch()
    (tmp_path / "script").write_text(script("bash"))
    command = ["bash", "--norc", "-c", TRY, "bash", "./script", *LINES]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = dict(zip(LINES, found.stdout.splitlines(), strict=True))
    assert not found.stderr and told == {**LINES, "sid2-plan --backend=": told["sid2-plan --backend="]}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_theirs(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(script(shell))
    asked = {"zsh": "source ./script; whence -w _sid2", "fish": "source script; complete -C 'sid2-train --precision='"}
    home = {**os.environ, "HOME": str(tmp_path)}
    found = subprocess.run([shell, "-c", asked[shell]], cwd=tmp_path, env=home, capture_output=True, text=True)
    expected = "_sid2: function" if shell == "zsh" else "--precision=mixed_bfloat16"
    assert found.returncode == 0 and expected in found.stdout, found.stderr


def test_all_programs_are_known_in_every_shell():
    for shell in SHELLS:
        assert all(f"sid2-{name}" in script(shell) for name in PROGRAMS)
    with pytest.raises(ValueError, match="--print_completion must be bash, zsh or fish, got 'tcsh'"):
        script("tcsh")
