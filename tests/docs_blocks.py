"""Runs the code blocks of README.md and docs/, with small numbers, as docs/index.md tells the reader.

The Python blocks of a page share their names; the commands of its shell blocks run in the same folder, each program in
this process. A block whose first line is one of MARKS is treated as that says. Other languages are not run.
"""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import itertools
import pathlib
import re
import shlex
import shutil
import tomllib

import keras
from absl import flags
from absl.testing import flagsaver

from keras_sid2.bin import flag_table
from pipelines import __main__ as data_program

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS, PROGRAMS = PROJECT["optional-dependencies"], PROJECT["scripts"]

NOT_RUN, FLAGS_ONLY = "# Not run by the tests: ", "# The tests check the flags only: "
MARKS = (NOT_RUN, FLAGS_ONLY)
# What a mark's reason must name: something that no machine of the tests has.
LACKING = ("TPU", "GPU", "ImageNet", "Kinetics", "your ", "several machines", "download", "minutes")

# Larger numbers than these, of arguments and of flags with these names, are replaced by these.
SMALL = {
    **{"epochs": 1, "steps_per_epoch": 2, "steps": 4, "warmup_steps": 2, "log_every": 2, "checkpoint_every": 4},
    **{"sample_every": 0, "num_steps": 2, "sample_steps": 2, "sweep_steps": 2, "frames": 2, "resamplings": 2},
    **{"num_images": 24, "measure_images": 24, "measure_every": 4, "eval_every": 4, "verify_resume": 2},
    **{"snapshot_every": 2},
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of code."""

    page: pathlib.Path
    line: int
    language: str
    code: str

    @property
    def mark(self) -> str | None:
        return next((mark for mark in MARKS if self.code.startswith(mark)), None)

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[pathlib.Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: pathlib.Path) -> list[Block]:
    """Those of Python and of the shell."""
    found, lines = [], page.read_text().split("\n")
    opened = None
    for i, line in enumerate(lines):
        fence = re.match(r" *```(\w*)", line)
        if fence and opened is None:
            opened = (i + 1, fence[1])
        elif fence:
            code = "\n".join(lines[opened[0] : i]) + "\n"
            found.append(Block(page, opened[0] + 1, opened[1], code))
            opened = None
    assert opened is None, f"{page}: a block has no end"
    return [block for block in found if block.language in ("python", "bash")]


def run(page: pathlib.Path):
    """Runs the blocks of a page in the present folder."""
    names = {"__name__": "__main__"}
    for block in blocks(page):
        try:
            if block.language == "bash":
                _run_shell(block)
            elif block.mark is None:
                _run_python(block, names)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block.name}: {type(error).__name__}: {error}") from error


# -- Python ----------------------------------------------------------------------------------------------------------


class _Smaller(ast.NodeTransformer):
    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
            node.value = ast.Constant(_small(node.arg, node.value.value))
        return node


def _small(name: str | None, number: int) -> int:
    return min(number, SMALL.get(name, number))


def parsed(block: Block) -> ast.Module:
    """The program, with small numbers, each at its line of the page."""
    tree = ast.parse(block.code, filename=block.name)
    return ast.increment_lineno(ast.fix_missing_locations(_Smaller().visit(tree)), block.line - 1)


def _run_python(block: Block, names: dict):
    exec(compile(parsed(block), str(block.page), "exec"), names)


# -- the shell -------------------------------------------------------------------------------------------------------


_SCRIPT = re.compile(r"^python - <<'(\w+)'\n(.*?)^\1$\n?", re.DOTALL | re.MULTILINE)  # Python within a shell's block


def commands(code: str) -> list[list[str]]:
    """The words of each command, without comments and the setting of variables."""
    found = []
    for line in code.replace("\\\n", " ").split("\n"):
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"export|[A-Z_]+=.*", command[0]):
                command = command[1:]
            if command:
                found.append(command)
    return found


def _run_shell(block: Block):
    pieces = _SCRIPT.split(block.code)
    for shell, script in itertools.zip_longest(pieces[::3], pieces[2::3]):
        _run_commands(block, commands(shell))
        if script is not None and block.mark is None:
            _run_python(dataclasses.replace(block, code=script), {"__name__": "__main__"})


def _run_commands(block: Block, found: list[list[str]]):
    for command in found:
        program = _program(command)
        if block.mark == NOT_RUN:
            continue
        if program is None:
            _check_other(command)
        elif program[0] == "sid2-data":
            _data(program[1], only_flags=block.mark is not None)
        elif block.mark is not None:
            _check_flags(*program)
        else:
            assert command[0] == program[0], f"{' '.join(command)}: mark the block, which is started by {command[0]}"
            main, _ = _parts(program[0])
            code = main(_values(*program))
            assert not code, f"{' '.join(command)} ended with {code}"
            keras.utils.clear_session(free_memory=False)


def _program(command: list[str]) -> tuple[str, list[str]] | None:
    """(sid2-name, flags) of a command that starts one, by itself or by a launcher such as torchrun."""
    for i, word in enumerate(command):
        word = re.sub(r"^keras_sid2\.bin\.", "sid2-", word)
        if word in PROGRAMS:
            return word, command[i + 1 :]
    return None


def _parts(name: str) -> tuple:
    """(function of the flags' values, table of flags) of a program: the arguments of its `run_program`."""
    main, _, table = importlib.import_module(PROGRAMS[name].partition(":")[0]).run.args
    return main, table


def _check_flags(name: str, given: list[str]):
    """Raises for flags that a program does not have, lacks, or takes with other values."""
    flag_table.check(_parts(name)[1], _parsed(name, given))


def _parsed(name: str, given: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    flag_table.define(_parts(name)[1], values)
    rest = values([name, *given])[1:]
    assert not rest, f"{name} takes flags only, got {rest}"
    return values


def _values(name: str, given: list[str]) -> flags.FlagValues:
    """The flags with small numbers, also of those that are not given; the program checks them."""
    values = _parsed(name, [*map(_small_flag, given)])
    for flag_name in set(SMALL).intersection(values):
        flag = values[flag_name]
        if isinstance(flag.value, int):  # the default of a flag that was not given
            flag.value = _small(flag_name, flag.value)
    if "sample_steps" in values and values.sample_steps is None:
        values.sample_steps = SMALL["sample_steps"]  # the default is the preset's
    return values


def _small_flag(text: str) -> str:
    name, _, value = text.lstrip("-").partition("=")
    if name not in SMALL or not re.fullmatch(r"[\d,]+", value):
        return text
    return f"--{name}=" + ",".join(dict.fromkeys(str(_small(name, int(number))) for number in value.split(",")))


def _data(given: list[str], only_flags: bool):
    """sid2-data, whose flags are the program's own."""
    with _kept(data_program.FLAGS):
        words = data_program.FLAGS(["sid2-data", *given])
        assert words[1] in data_program.COMMANDS, f"sid2-data has no command {words[1]}"
        if not only_flags:
            data_program._main(words)


@contextlib.contextmanager
def _kept(values: flags.FlagValues):
    saved = flagsaver.save_flag_values(values)
    try:
        yield
    finally:
        flagsaver.restore_flag_values(saved, values)


def _check_other(command: list[str]):
    """AssertionError for a command that this file knows nothing of, and for what it names and is not there."""
    if command[:2] == ["pip", "install"]:
        for word in (word for word in command[2:] if word != "-e"):
            found = re.fullmatch(r"(?:keras_sid2|\.)\[(.*)\]", word)
            assert found, f"{word} is no extra of keras_sid2"
            unknown = set(found[1].split(",")) - set(EXTRAS)
            assert not unknown, f"no such extras: {unknown}"
    elif command[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(command[2]), f"no module {command[2]}"
    elif command[0] == "python":
        assert (ROOT / command[1]).is_file(), f"no file {command[1]}"
    elif command[0] == "tensorboard":
        assert pathlib.Path(command[1].partition("=")[2]).is_dir(), f"no folder in {command[1]}"
    elif command[0] == "cp":
        shutil.copyfile(*command[1:])
    else:
        raise AssertionError(f"{' '.join(command)}: mark the block, which the tests cannot run")
