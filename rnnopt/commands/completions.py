"""The completion of a shell, as tyro writes it, with the names that options take and files."""

import re
from collections.abc import Iterable

from rnnopt.config import MODELS
from rnnopt.optimizers.by_name import OPTIMIZERS
from rnnopt.tasks import TASKS

NAMES: dict[str, Iterable[str]] = {
    "--task": TASKS, "--model": MODELS, "--optimizer": OPTIMIZERS, "--optimizers": OPTIMIZERS,
}  # fmt: skip
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
    script = script.replace(f"[[ {FILES} ]]", f'[[ -z "$completions" || {FILES} ]]')
    # tyro joins the word with those before it, which is meant for words with colons.
    return script.replace('compgen -f -- "$cur"', 'compgen -f -- "${COMP_WORDS[COMP_CWORD]}"')
