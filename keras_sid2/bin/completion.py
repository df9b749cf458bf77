"""sid2 --print_completion=bash|zsh|fish: what a shell is told of the programs, their flags and values.

The script has all words in it, so a press of the key starts no Python. It is printed before Keras is imported.
"""

import dataclasses

from keras_sid2.bin import flag_table, tables
from keras_sid2.bin.tables.shared import BackendFlag
from keras_sid2.starting import BACKENDS

SHELLS = ("bash", "zsh", "fish")
_BASH = """\
# Completion of sid2 and the sid2-* programs; made by sid2 --print_completion.
_sid2() {{
    local line=${{COMP_LINE:0:$COMP_POINT}} program=${{COMP_WORDS[0]##*/}} flags= words= values= commands=
    local current=${{line##*[[:space:]]}}
    if [[ $program == sid2 && $COMP_CWORD -gt 1 && ${{COMP_WORDS[1]}} != -* ]]; then
        program=sid2-${{COMP_WORDS[1]}}
    fi
    case $program in
        sid2) flags="--help --print_completion=" commands="{programs}" ;;
{cases}    esac
    if [[ $current == --*=* ]]; then
        local flag=${{current%%=*}} value=${{current#*=}}
        case $program$flag in
{values}        esac
        if [[ -n $values ]]; then
            COMPREPLY=($(compgen -W "$values" -- "$value"))
        else
            COMPREPLY=($(compgen -f -- "${{value/#\\~/$HOME}}"))
            compopt -o filenames 2>/dev/null
        fi
        [[ $COMP_WORDBREAKS == *=* ]] || COMPREPLY=("${{COMPREPLY[@]/#/$flag=}}")
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
        [[ ${{#COMPREPLY[@]}} -eq 1 && $COMPREPLY == *= ]] && compopt -o nospace 2>/dev/null
    else
        COMPREPLY=($(compgen -W "$commands" -- "$current"))
        [[ ${{#COMPREPLY[@]}} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete {options}-F _sid2 {names}
"""
_ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""


@dataclasses.dataclass(frozen=True)
class _Flag:
    name: str
    text: str
    values: tuple[str, ...] = ()
    is_switch: bool = False  # given without a value, or as --noNAME


def script(shell: str) -> str:
    """What the shell is to read; ValueError for one that is not known."""
    if shell not in SHELLS:
        raise ValueError(f"--print_completion must be {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, got {shell!r}.")
    from pipelines.programs import PROGRAMS

    flags = {f"sid2-{name}": _flags(name) for name in PROGRAMS}
    if shell == "fish":
        return _fish(flags, {name: text for name, (_, text) in PROGRAMS.items()})
    if shell == "zsh":  # which runs bash's, but for compopt: there no space follows anything
        return _ZSH + _bash(flags, [*PROGRAMS], options="-o nospace ")
    return _bash(flags, [*PROGRAMS])


def _flags(name: str) -> list[_Flag]:
    if name == "data":
        return _flags_of_data()
    table = tables.table_of(name)
    fields = [] if table is None else [*dataclasses.fields(table)]
    fields += [] if table is None or "backend" in flag_table.names(table) else dataclasses.fields(BackendFlag)
    help_flag = _Flag("help", "lists the flags", is_switch=True)
    return [*(_Flag(f.name, f.metadata["text"], _values(f), f.type is bool) for f in fields), help_flag]


def _values(field) -> tuple[str, ...]:
    """Those of a flag that has a few."""
    accepted = field.metadata["accepted"]
    return BACKENDS if field.name == "backend" else getattr(accepted, "names", ())


def _flags_of_data() -> list[_Flag]:
    from pipelines.__main__ import FLAGS

    return [_Flag(name, FLAGS[name].help, is_switch=FLAGS[name].boolean) for name in FLAGS]


def _commands(program: str) -> str:
    from pipelines.__main__ import COMMANDS

    return " ".join(COMMANDS) if program == "sid2-data" else ""


def _bash(flags: dict[str, list[_Flag]], programs: list[str], options: str = "") -> str:
    cases = values = ""
    for program, found in flags.items():
        words = [f"--{flag.name}" if flag.is_switch else f"--{flag.name}=" for flag in found]
        cases += f'        {program}) flags="{" ".join(words)}" commands="{_commands(program)}" ;;\n'
        for flag in found:
            if flag.values:
                values += f'            {program}--{flag.name}) values="{" ".join(flag.values)}" ;;\n'
    values += f'            sid2--print_completion) values="{" ".join(SHELLS)}" ;;\n'
    names = " ".join(["sid2", *flags])
    return _BASH.format(programs=" ".join(programs), cases=cases, values=values, names=names, options=options)


def _fish(flags: dict[str, list[_Flag]], programs: dict[str, str]) -> str:
    lines = ["# Completion of sid2 and the sid2-* programs; made by `sid2 --print_completion=fish`."]
    for name, text in programs.items():
        lines.append(f"complete -c sid2 -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
    lines.append(f"complete -c sid2 -n __fish_use_subcommand -l print_completion -x -a '{' '.join(SHELLS)}'")
    for program, found in flags.items():
        within = f"-c sid2 -n '__fish_seen_subcommand_from {program.removeprefix('sid2-')}'"
        for where in (f"-c {program}", within):
            for flag in found:
                how = f" -x -a '{' '.join(flag.values)}'" if flag.values else "" if flag.is_switch else " -r"
                lines.append(f"complete {where} -l {flag.name}{how} -d {_quoted(flag.text)}")
            if commands := _commands(program):
                lines.append(f"complete {where} -a '{commands}'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
