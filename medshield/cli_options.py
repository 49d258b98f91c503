"""The options of the command line, and where else their values come from.

Every option also reads MEDSHIELD_<NAME> and the TOML file of `--config`; the command line wins
over the environment, and that over the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click
from click.shell_completion import CompletionItem

from medshield import api, method_names
from medshield.api import defaults_of
from medshield.bounded import MOST_CONFIG_BYTES, read_bounded
from medshield.errors import InputError

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path)
PROTECT = defaults_of(api.protection)
VERIFY = defaults_of(api.verification)
BENCHMARK = defaults_of(api.benchmark)
"""Defaults, by the names of keywords."""
SIDE = click.IntRange(*api.IMAGE_SIZES)
COUNT = click.IntRange(1)
TALKING = ("as_json", "quiet", "verbose", "log_file")
"""What is about the command line itself."""


class MethodName(click.ParamType):  # type: ignore[type-arg]  # generic from 8.3 on alone
    """A method that is installed; looked for when it is needed, and never imported."""

    name = "method"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(method_names.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in method_names.names():
            self.fail(method_names.unknown(str(value)), param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [
            CompletionItem(name) for name in method_names.names() if name.startswith(incomplete)
        ]


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that also reads MEDSHIELD_<NAME>."""
    word = next(name for name in names if name.startswith("--")).removeprefix("--")
    variable = "MEDSHIELD_" + word.replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Take option values from a TOML file; command line and environment win over it.

    Keys at the top are for every command that has such an option; those of a table, such as
    `[protect]`, are for that command and win.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(read_bounded(path, MOST_CONFIG_BYTES).decode())
    except OSError as error:
        raise InputError(f"--config {path}: can't be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--config {path}: not TOML ({error})") from error
    except RecursionError:
        raise InputError(f"--config {path}: nested too deep; options are not nested") from None
    commands = cast(click.Group, context.find_root().command).commands
    tables = {name: table for name, table in values.items() if isinstance(table, dict)}
    _refuse_unknown(path, "table", set(tables), set(commands))
    everywhere = {name for command in commands.values() for name in _option_names(command)}
    shared = {_plain(name): value for name, value in values.items() if name not in tables}
    _refuse_unknown(path, "option", set(shared), everywhere)
    own = {_plain(name): value for name, value in tables.get(context.info_name or "", {}).items()}
    known = _option_names(context.command)
    _refuse_unknown(path, "option", set(own), set(known))
    repeatable = {parameter.name for parameter in context.command.params if parameter.multiple}
    context.default_map = {
        known[name]: _option_value(value, repeatable=known[name] in repeatable)
        for name, value in (shared | own).items()
        if name in known
    }
    return path


def _option_value(value: Any, *, repeatable: bool) -> Any:
    """As click takes it: a list for an option that may be repeated, else joined by commas."""
    if repeatable:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _plain(key: str) -> str:
    return key.replace("_", "-")


def _option_names(command: click.Command) -> dict[str, str]:
    """Long options without their dashes, and click's names for them."""
    return {
        name.removeprefix("--"): parameter.name
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--") and parameter.name
    }


def _refuse_unknown(path: Path, what: str, found: set[str], known: set[str]) -> None:
    if unknown := sorted(found - known):
        raise InputError(f"--config {path}: no {what} is called {', '.join(unknown)}")


def _note_json(context: click.Context, _: click.Parameter, value: bool) -> bool:
    """Remember, for errors too, that standard output is to be JSON."""
    context.ensure_object(dict)["json"] = value
    return value


def _leakage_limit(_: click.Context, __: click.Parameter, limit: float | None) -> float | None:
    """See to it that a limit of leakage is one.

    Raises:
        InputError: it is not finite, or not above 0.
    """
    if limit is not None:
        api.see_to_limit(limit)
    return limit


source_argument = click.argument("source", type=FOLDER)

labelling = options(
    option(
        "--labels",
        type=FOLDER,
        metavar="CSV|none",
        help="CSV with a label per image, or per folder of a patient; found by itself if absent. "
        "none: use no labels, but clusters of images that look alike, which protects far less.",
    ),
    option("--path-col", help="Its column of image paths."),
    option("--label-col", help="Its column of labels, or several finding columns: A,B,C."),
    option("--patient-col", help="Its column of patients; images of one patient stay together."),
    option("--split-col", help="Its column of train, val and test."),
    option("--masks", type=FOLDER, help="Folder of masks, inside the source."),
    option("--label-tag", metavar="GGGG,EEEE", help="DICOM tag that holds the class."),
    option(
        "--task",
        type=click.Choice(get_args(api.TaskName)),
        default=PROTECT["task"],
        show_default=True,
        help="What a model is to learn; auto tells it from labels or masks.",
    ),
    option("--allow-missing", is_flag=True, help="Go on without images or rows that don't match."),
)
handling_options = options(
    option(
        "--icons",
        type=click.Choice(get_args(api.Icons)),
        default=PROTECT["icons"],
        show_default=True,
        help="What becomes of small copies of the clean picture that a file carries.",
    ),
    option("--drop-signatures", is_flag=True, help="Remove signatures that changes would break."),
)
uid_option = option(
    "--uid",
    type=click.Choice(get_args(api.Uid)),
    default=PROTECT["uid"],
    show_default=True,
    help="SOP Instance UIDs of DICOM files; new ones are the same wherever they are referenced.",
)
intensity_option = option(
    "--intensity",
    metavar="auto|window|stored|LOW,HIGH",
    default=PROTECT["intensity"],
    show_default=True,
    help="Range that eps is a fraction of.",
)
surrogate_weights_option = option(
    "--surrogate-weights",
    type=FOLDER,
    metavar="FILE|NAME=FILE",
    help="robust: ImageNet weights of one more surrogate, against trainers who start from such.",
)
fitting = options(
    option(
        "--method",
        type=MethodName(),
        default=PROTECT["method"],
        show_default=True,
        help="robust leaves least of what was measured; em, advt and synthetic are the others "
        "(README.md). For comparison: "
        f"{', '.join(('random-noise', *method_names.PUBLISHED_NAMES))}. "
        "Other packages may add some (docs/own-method.md).",
    ),
    option(
        "--eps",
        help="Radius as a fraction of the intensity range, such as 8/255; only a fitted generator "
        "has its own.",
    ),
    intensity_option,
    option(
        "--image-size",
        type=SIDE,
        help="Grid the perturbation is made on.",
    ),
    option(
        "--effort",
        type=click.FloatRange(0, api.MOST_EFFORT, min_open=True),
        default=PROTECT["effort"],
        show_default=True,
        help="Times the training steps.",
    ),
    option("--seed", type=int, help="For a repeatable key; the default is a random one."),
    surrogate_weights_option,
)
resume_option = option(
    "--resume",
    is_flag=True,
    help="Finish an interrupted run; with nothing to finish, start from the beginning.",
)
min_ssim_option = option(
    "--min-ssim",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Structural similarity that every frame keeps, such as 0.9: a second bound beside --eps.",
)
preview_option = option(
    "--preview",
    type=FOLDER,
    metavar="FILE.png",
    help="Draw a contact sheet of some images there; it shows clean images.",
)
fail_above_option = option(
    "--fail-above",
    type=float,
    callback=_leakage_limit,
    metavar="LEAKAGE",
    help="Exit with 0 if no leakage interval goes above it, such as 0.3, and with 4 if one does; "
    "the verdict stays what it is.",
)
weights_option = option(
    "--weights",
    multiple=True,
    type=FOLDER,
    metavar="FILE|NAME=FILE",
    help="ImageNet weights of a pretrained victim; downloaded if absent. May be repeated.",
)
workers_option = option(
    "--workers",
    type=click.IntRange(1),
    default=PROTECT["workers"],
    show_default="processors",
    help="Files read and written at a time.",
)
running = options(
    option(
        "--device",
        type=click.Choice(get_args(api.Device)),
        default=PROTECT["device"],
        show_default=True,
        help="Where models are trained and asked; auto takes a GPU where there is one.",
    ),
    workers_option,
)
engine_options = options(
    option(
        "--engine",
        type=click.Choice(get_args(api.Engine)),
        default=PROTECT["engine"],
        show_default=True,
        help="Who writes the files: this machine, or a Ray cluster.",
    ),
    option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of the cluster, such as ray://head:10001; RAY_ADDRESS, or this machine, if absent.",
    ),
)
talking = options(
    option(  # before --json, which it may hold
        "--config",
        type=FOLDER,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of option values.",
    ),
    option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_note_json,
        help="One JSON document on standard output.",
    ),
    option("--quiet", "-q", is_flag=True, help="No progress on standard error."),
    option(
        "--verbose",
        "-v",
        is_flag=True,
        help="More messages, and where something unexpected happened.",
    ),
    option("--log-file", type=FOLDER, help="Write messages there, too."),
)


def keywords(values: dict[str, Any], *without: str) -> dict[str, Any]:
    """What a verb is asked, less what is about the command line itself.

    Args:
        values: of all options.
        without: names of others that the verb has no use for.
    """
    return {name: v for name, v in values.items() if name not in (*TALKING, *without)}
