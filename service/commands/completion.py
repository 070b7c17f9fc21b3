"""`dain completion`: what has a shell complete commands, options and their values."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print what has SHELL complete commands, options and their values on Tab.  [your shell]

    \b
    bash:  echo 'eval "$(dain completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(dain completion zsh)"' >> ~/.zshrc
    fish:  dain completion fish > ~/.config/fish/completions/dain.fish
    """
    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"Your shell ({shell or 'SHELL is not set'}) is none of {', '.join(SHELLS)}.")
    root = click.get_current_context().find_root().command
    click.echo(complete(root, {}, "dain", "_DAIN_COMPLETE").source())
