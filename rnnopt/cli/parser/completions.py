"""The completion of a shell, as tyro writes it, with the names that options take and files."""

import re
from collections.abc import Iterable

from rnnopt.config.run_config import MODELS
from rnnopt.experiments import reproduce
from rnnopt.optimizers.registry import OPTIMIZERS
from rnnopt.tasks import TASKS

NAMES: dict[str, Iterable[str]] = {
    "--task": TASKS, "--model": MODELS, "--optimizer": OPTIMIZERS, "--optimizers": OPTIMIZERS,
}  # fmt: skip
POSITIONAL: dict[str, Iterable[str]] = {
    "list": (*TASKS, *MODELS, *OPTIMIZERS),
    "reproduce": ("list", *(one.name for one in reproduce.ALL)),
    "completion": ("bash", "zsh"),
}
# In tyro's Python: where a word may be the value of an option, and where else words are found.
OF_AN_OPTION = "if current_word_index > 0"
OPTIONS_FOLLOW = "    # Add available options from current spec.\n"
NAMES_FIRST = """\
    for name in current_spec.get("positional", []):
        if name.startswith(current_word):
            completions.append(f"{name}\\t{name}")
"""
FILES = '"$completions" == "__TYRO_COMPLETE_FILES__"'


def mended(script: str) -> str:
    """The script that offers names where a name is wanted, and files where it knows nothing.

    Args:
        script: that tyro prints for bash or zsh.
    """
    script = re.sub(r"'None', |, 'None'", "", script)  # unset, which nobody can write
    for option, names in NAMES.items():
        before = rf"('flags': \['{option}'\].*?'type': )'\w+'(.*?'nargs': [^,}}]+)"
        script = re.sub(before, rf"\1'choice'\2, 'choices': {list(names)}", script)
    for verb, names in POSITIONAL.items():
        before = f"'description': '{verb}', "
        script = script.replace(before, f"{before}'positional': {list(names)}, ")
    script = script.replace(OPTIONS_FOLLOW, NAMES_FIRST + OPTIONS_FOLLOW)
    # Options end the values of an option that takes any number.
    script = script.replace(
        f"{OF_AN_OPTION}:", f'{OF_AN_OPTION} and not current_word.startswith("-"):'
    )
    script = script.replace(f"[[ {FILES} ]]", f'[[ -z "$completions" || {FILES} ]]')
    # tyro joins the word with those before it, which is meant for words with colons.
    return script.replace('compgen -f -- "$cur"', 'compgen -f -- "${COMP_WORDS[COMP_CWORD]}"')
