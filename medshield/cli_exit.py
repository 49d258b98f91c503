"""How the command line ends: one line that says what is wrong, and the contract's exit codes."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

import click

from medshield.errors import InputError, MedshieldError
from medshield.text import printable

EXIT_UNEXPECTED, EXIT_REFUSED, EXIT_FAILED, EXIT_UNKNOWN, EXIT_INTERRUPTED = 1, 3, 4, 5, 130
COLOUR_OF_VERDICT = {"protected": "green", "partly": "yellow", "inconclusive": "yellow"}
LOGGER = logging.getLogger("medshield")


def run(group: click.Group) -> int:
    """Run what the command line asks for; returns the exit code, and never raises for bad input.

    Args:
        group: the commands.
    """
    state = {"json": "--json" in sys.argv}
    try:
        code = (
            group.main(
                standalone_mode=False, prog_name="medshield", obj=state, color=_wants_colour()
            )
            or 0
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = InputError.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        code = _failed(_usage(error), InputError.exit_code, state["json"])
    except MedshieldError as error:
        code = _failed(str(error), error.exit_code, state["json"])
    except (KeyboardInterrupt, click.Abort):
        code = _failed(_interruption(group), EXIT_INTERRUPTED, state["json"])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_UNEXPECTED
    except Exception as error:
        # Where, but not what: a library's own words may quote a header.
        places = "".join(traceback.format_tb(error.__traceback__))
        LOGGER.debug("unexpected %s\n%s", type(error).__name__, places)
        message = (
            f"unexpected {type(error).__name__}; run again with --verbose for the place, and "
            "report it"
        )
        code = _failed(message, EXIT_UNEXPECTED, state["json"])
    return code


def _usage(error: click.ClickException) -> str:
    """What click says, and where to read on."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    where = f"ee {context.command_path} --help"
    return f"{message} S{where}" if message.endswith(("?", "?)")) else f"{message}; s{where}"


def _interruption(group: click.Group) -> str:
    """What an interrupted run leaves, and how to go on."""
    command = next((word for word in sys.argv[1:] if word in group.commands), "")
    if command == "protect":
        return "interrupted; nothing unfinished was released; run again with --resume to go on"
    if command == "fit":
        return "interrupted; run again with --resume to go on"
    return "interrupted; nothing was written" if command == "scan" else "interrupted"


def _failed(message: str, code: int, as_json: bool) -> int:
    complain(message)
    if as_json and os.environ.get("RANK", "0") == "0":  # one document, of however many processes
        click.echo(json.dumps({"error": message, "exit_code": code}))
    return code


def _wants_colour() -> bool | None:
    """False where the user has said so (https://no-color.org); None where a terminal decides."""
    return False if os.environ.get("NO_COLOR") else None


def with_coloured_verdict(text: str, verdict: str) -> str:
    """The text with the first mention of a verdict in the colour of its kind.

    Args:
        text: has it in capitals, before a bracket.
        verdict: see `evidence.Verdict`.
    """
    word = verdict.upper()
    shown = click.style(word, fg=COLOUR_OF_VERDICT.get(verdict, "red"), bold=True)
    return text.replace(f": {word} (", f": {shown} (", 1)


def complain(message: str) -> None:
    """One line on standard error, and in the log."""
    name = click.style("medshield:", fg="red")
    click.echo(f"{name} {printable(message)}", err=True, color=_wants_colour())
    for handler in LOGGER.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, message, (), None))
