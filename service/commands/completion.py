"""`dain completion`: what has a shell complete commands, options and their values."""

from __future__ import annotations

import os

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete


class _Zsh(ZshComplete):
    """Starts zsh's completion where nothing else has: a new ~/.zshrc does not."""

    source_template = ZshComplete.source_template.replace(
        "compdef %(complete_func)s",
        "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }\n    compdef %(complete_func)s",
    )


class _Fish(FishComplete):
    """Shows what is said of an option beyond its first comma."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


COMPLETES = {"bash": BashComplete, "zsh": _Zsh, "fish": _Fish}


@click.command()
@click.argument("shell", type=click.Choice(list(COMPLETES)), required=False)
def completion(shell: str | None) -> None:
    """Print what has SHELL complete commands, options and their values on Tab.  [your shell]

    \b
    bash:  echo 'eval "$(dain completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(dain completion zsh)"' >> ~/.zshrc
    fish:  echo 'dain completion fish | source' >> ~/.config/fish/config.fish
    """
    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in COMPLETES:
        raise click.UsageError(
            f"Your shell ({shell or 'SHELL is not set'}) is none of {', '.join(COMPLETES)}."
        )
    root = click.get_current_context().find_root().command
    click.echo(COMPLETES[shell](root, {}, "dain", "_DAIN_COMPLETE").source())
