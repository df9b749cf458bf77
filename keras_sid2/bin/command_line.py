"""The command line of a program: its flags defined, read and checked, its --help.

Done twice: by `look`, before Keras is imported, which takes seconds, so that what is wrong is said at once; and by
`run_program`, whose program then has the values.
"""

import ast
import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator

from absl import app, flags

from keras_sid2.bin import flag_table, tables
from keras_sid2.bin.tables.shared import BackendFlag

_PREFIX = "sid2-"


def look(program: str, argv: list[str]) -> list[str]:
    """Ends the process, as the program would, where its command line is wrong or asks for help; imports no Keras.

    Gives the arguments with those of each --flagfile, which may be a pipe and is read once, in its place. Nothing is
    done for a program without a table in bin/tables.
    """
    name = program.removeprefix(_PREFIX)
    if program == "sid2" and argv and argv[0].startswith("--print_completion"):
        _print_completion(argv[0].partition("=")[2])
    table = tables.table_of(name)
    if table is None:
        return argv
    define(program, table, _docstring(name))
    with _told(program):
        argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    rest = read([program, *argv], program)
    with one_line(program):
        check_nothing_behind(rest, program)
        flag_table.check(table, flags.FLAGS)
    return argv


def _print_completion(shell: str):
    from keras_sid2.bin.completion import script

    with one_line("sid2"):
        print(script(shell), end="")
    sys.exit(0)


def define(usage: str, table: type, about: str):
    """Defines the flags of a table, absl's own and --backend, once in a process; `about` is what --help shows."""
    if usage not in _defined:
        _defined.add(usage)
        app.define_help_flags()
        flag_table.define(table)
        if "backend" not in flag_table.names(table):  # sid2-plan's is the one that it plans for
            flag_table.define(BackendFlag)
    for flag in flags.FLAGS.get_key_flags_for_module(flag_table.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # whose flags --help shows
    sys.modules["__main__"].__doc__ = about.replace("%", "%%")  # absl shows that, with % for the program's name


_defined: set[str] = set()


def read(argv: list[str], usage: str) -> list[str]:
    """What stands beside flags, the program's name first; ends the process for a wrong flag and for --help."""
    flags.FLAGS.unparse_flags()  # those given several times would be there twice
    with _told(usage):
        return flags.FLAGS(argv)


@contextlib.contextmanager
def _told(usage: str) -> Iterator[None]:
    try:
        yield
    except flags.Error as error:
        print(f"{usage}: {str(error).splitlines()[0]}; --help lists the flags.", file=sys.stderr)
        sys.exit(2)
    except SystemExit:  # of --help, with 1
        sys.exit(0)


def check_nothing_behind(argv: list[str], usage: str):
    """ValueError for words that are no flags."""
    if len(argv) > 1:
        raise ValueError(f"{usage} takes flags only, got {' '.join(map(repr, argv[1:]))}.")


@contextlib.contextmanager
def one_line(usage: str) -> Iterator[None]:
    """A ValueError within it ends the process, with its sentence and the exit code 2."""
    try:
        yield
    except ValueError as error:
        print(f"{usage}: {error}", file=sys.stderr)
        sys.exit(2)


def _docstring(name: str) -> str:
    """Of a program, whose module is not imported."""
    source = pathlib.Path(importlib.util.find_spec(f"keras_sid2.bin.{name}").origin)
    return ast.get_docstring(ast.parse(source.read_bytes()), clean=False) or ""
