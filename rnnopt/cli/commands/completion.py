"""`rnnopt completion`: what makes a shell complete the command line."""

from typing import Literal

from rnnopt.cli.main import VERBS, parser


def completion(shell: Literal["bash", "zsh"], /) -> int:
    """Print the completion script of a shell.

    The shell then completes verbs, options, names and files. For bash, the first example belongs
    into ~/.bashrc. For zsh, the second is done once, with ~/.zfunc in fpath before compinit.

    Args:
        shell: Shell that reads the script.

    Examples:
        eval "$(rnnopt completion bash)"
        rnnopt completion zsh > ~/.zfunc/_cyclopts_rnnopt
    """
    print(parser(VERBS).generate_completion(shell=shell))
    return 0
