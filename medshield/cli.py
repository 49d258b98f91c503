"""The command line: parse, call, print, exit code. Nothing here knows how anything is done."""

from __future__ import annotations

import json
import logging
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from medshield import __version__
from medshield.errors import InputError, MedshieldError

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_UNEXPECTED, EXIT_REFUSED, EXIT_FAILED, EXIT_UNKNOWN, EXIT_INTERRUPTED = 1, 3, 4, 5, 130
METHOD_NAMES = ("em", "advt", "synthetic", "random-noise")


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that also reads MEDSHIELD_<NAME>."""
    longest = max(names, key=len).split("/")[0]
    variable = "MEDSHIELD_" + longest.lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Take option values from a TOML file; command line and environment win over it."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: not readable as TOML ({error})") from error
    section = values.get(context.info_name or "", {})
    flat = {k: v for k, v in values.items() if not isinstance(v, dict)} | section
    known = {n.lstrip("-"): p.name for p in context.command.params for n in p.opts if p.name}
    unknown = sorted(set(k.replace("_", "-") for k in flat) - set(known))
    if unknown and section:
        raise click.BadParameter(f"{path}: no option is called {', '.join(unknown)}")
    context.default_map = {
        known[key.replace("_", "-")]: value
        for key, value in flat.items()
        if key.replace("_", "-") in known
    }
    return path


def _set_up_logging(quiet: bool, verbose: bool, log_file: Path | None) -> None:
    logger = logging.getLogger("medshield")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    if log_file:
        try:
            handler = logging.FileHandler(log_file)
        except OSError as error:
            raise InputError(f"--log-file {log_file}: can't be written ({error.strerror})") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    logger.propagate = False


FOLDER = click.Path(path_type=Path)
source_argument = click.argument("source", type=FOLDER)

labelling = options(
    option("--labels", type=FOLDER, help="CSV with a label per image; found by itself if absent."),
    option("--path-col", help="Its column of image paths."),
    option("--label-col", help="Its column of labels, or several finding columns: A,B,C."),
    option("--patient-col", help="Its column of patients; images of one patient stay together."),
    option("--split-col", help="Its column of train, val and test."),
    option("--masks", type=FOLDER, help="Folder of masks, inside the source."),
    option("--label-tag", metavar="GGGG,EEEE", help="DICOM tag that holds the class."),
    option(
        "--task",
        type=click.Choice(["auto", "classification", "multilabel", "segmentation"]),
        default="auto",
        show_default=True,
    ),
    option("--allow-missing", is_flag=True, help="Go on without images or rows that don't match."),
)
intensity_option = option(
    "--intensity",
    metavar="auto|window|stored|LOW,HIGH",
    default="auto",
    show_default=True,
    help="Range that eps is a fraction of.",
)
fitting = options(
    option("--method", type=click.Choice(METHOD_NAMES), default="em", show_default=True),
    option("--eps", help="Radius as a fraction of the intensity range, such as 8/255."),
    intensity_option,
    option("--image-size", type=click.IntRange(32, 2048), help="Grid the perturbation is made on."),
    option("--effort", type=float, default=1.0, show_default=True, help="Times the training steps."),
    option("--seed", type=int, help="For a repeatable key; the default is a random one."),
)
running = options(
    option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
    ),
    option(
        "--workers",
        type=click.IntRange(1),
        default=max(1, min(8, os.cpu_count() or 1)),
        show_default="processors",
        help="Files read and written at a time.",
    ),
)
talking = options(
    option("--json", "as_json", is_flag=True, help="One JSON document on standard output."),
    option("--quiet", "-q", is_flag=True, help="No progress."),
    option("--verbose", "-v", is_flag=True, help="More of it."),
    option("--log-file", type=FOLDER, help="Write messages there, too."),
    click.option(
        "--config",
        type=FOLDER,
        envvar="MEDSHIELD_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of option values.",
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="medshield")
def cli() -> None:
    """Release medical images that look the same, keep every byte of metadata, and are of no use
    for training a model without permission.

    \b
    medshield scan ./dicoms                                what is there, and the plan
    medshield protect ./dicoms --method em --eps 8/255     writes ./dicoms-protected
    medshield check ./dicoms-protected                     nothing but pixels, within the bound
    medshield verify ./dicoms-protected                    trains victims, prints a verdict

    Exit codes: 0 done (verify: protected), 1 unexpected, 2 usage or unusable input, 3 done but
    some files were refused, 4 a bound, checksum or verdict failed, 5 verify could not tell,
    130 interrupted.
    """


def _annotation_options(values: dict[str, Any]) -> Any:
    from medshield.dataset.annotations import AnnotationOptions

    return AnnotationOptions(
        labels=values["labels"],
        path_column=values["path_col"],
        label_column=values["label_col"],
        patient_column=values["patient_col"],
        split_column=values["split_col"],
        masks=values["masks"],
        label_tag=values["label_tag"],
        task=values["task"],
        allow_missing=values["allow_missing"],
    )


def _print(as_json: bool, document: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(document, indent=1) if as_json else text)


@cli.command()
@source_argument
@labelling
@intensity_option
@option("--eps", help="Also say each file's radius, and which are too coarse for it.")
@running
@talking
def scan(source: Path, **values: Any) -> int:
    """Read a folder and write nothing: formats, labels, intensity range, and a plan per file."""
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import progress, tables
    from medshield.budget import parse_epsilon
    from medshield.dataset.scan import scan as run

    with progress.bar("reading") as update:
        found = run(
            source,
            _annotation_options(values),
            intensity=values["intensity"],
            epsilon=parse_epsilon(values["eps"]) if values["eps"] else None,
            workers=values["workers"],
            progress=update,
        )
    _print(values["as_json"], found.to_json(), tables.scan_text(found))
    if found.problem:
        raise InputError(found.problem)
    return EXIT_REFUSED if found.with_action("refuse") else 0


def _protect_config(source: Path, values: dict[str, Any], target: Path | None) -> Any:
    from medshield.budget import parse_epsilon
    from medshield.protect import ProtectConfig

    return ProtectConfig(
        source=source,
        target=target,
        method=values["method"],
        epsilon=parse_epsilon(values["eps"]) if values["eps"] else None,
        annotations=_annotation_options(values),
        intensity=values["intensity"],
        image_size=values["image_size"],
        seed=values["seed"],
        generator=values.get("generator"),
        device=values["device"],
        workers=values["workers"],
        resume=values.get("resume", False),
        effort=values["effort"],
    )


@cli.command()
@source_argument
@option("-o", "--output", type=FOLDER, help="The release; SOURCE-protected if absent.")
@fitting
@option("--generator", type=FOLDER, help="Apply this fitted generator (see fit).")
@labelling
@option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@option("--resume", is_flag=True, help="Finish an interrupted run.")
@running
@talking
def protect(source: Path, output: Path | None, dry_run: bool, **values: Any) -> int:
    """Learn the perturbation and write the release.

    \b
    medshield protect ./dicoms --method em --eps 8/255
    medshield protect ./new-images --generator ./dicoms-protected.private/generator
    """
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import tables
    from medshield.protect import plan
    from medshield.protect import protect as run

    config = _protect_config(source, values, output)
    if dry_run:
        found = plan(config)
        _print(values["as_json"], found.to_json(), tables.scan_text(found))
        return EXIT_REFUSED if found.with_action("refuse") else 0
    outcome = run(config)
    document = {
        "release": str(outcome.release),
        **outcome.summary,
        "refused": [{"path": r.path, "reason": r.reason} for r in outcome.refused],
    }
    _print(values["as_json"], document, tables.outcome_text(outcome))
    return EXIT_REFUSED if outcome.refused else 0


@cli.command()
@source_argument
@option("-o", "--output", type=FOLDER, required=True, help="The generator's folder.")
@fitting
@labelling
@option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@running
@talking
def fit(source: Path, output: Path, dry_run: bool, **values: Any) -> int:
    """Only learn the noise generator, for `protect --generator`.

    \b
    medshield fit ./dicoms -o ./generator --method em --eps 8/255
    """
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import tables
    from medshield.protect import fit as run
    from medshield.protect import plan

    config = _protect_config(source, values, output)
    if dry_run:
        found = plan(config)
        _print(values["as_json"], found.to_json(), tables.scan_text(found))
        return 0
    generator = run(config)
    setting = generator.method.setting
    document = {
        "generator": str(output),
        "method": generator.method.name,
        "epsilon": str(setting.budget.epsilon),
        "task": setting.task.name,
        "classes": list(setting.task.classes),
        "size": setting.size,
    }
    text = f"{output}: {generator.method.name} at {setting.budget.epsilon}; keep it secret"
    _print(values["as_json"], document, text)
    return 0


@cli.command()
@click.argument("release", type=FOLDER)
@option("--source", type=FOLDER, help="The clean images, to compare with.")
@running
@talking
def check(release: Path, source: Path | None, **values: Any) -> int:
    """Re-read every file: checksums, the bound, and nothing but pixels changed."""
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import tables
    from medshield.check import check as run

    result = run(release, source, values["workers"])
    _print(values["as_json"], result.to_json(), tables.check_text(result))
    return EXIT_FAILED if result.faults else 0


@cli.command()
@click.argument("release", type=FOLDER, required=False)
@option("--source", type=FOLDER, help="The clean images; taken from the private folder if absent.")
@option(
    "--threat",
    type=click.Choice(["basic", "determined", "expert"]),
    default="basic",
    show_default=True,
    help="What the trainer is taken to do; each level includes those below.",
)
@option("--cells", help="Run only these: victim[:training[:countermeasure]], comma-separated.")
@option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings per arm.")
@option("--seed", type=int, default=0, show_default=True, help="Of split, victims and bootstrap.")
@option("--epochs", type=click.IntRange(1), help="Of each victim.")
@option("--image-size", type=click.IntRange(32, 2048), help="Side of the victims' input, px.")
@option("--adv-eps", default="4/255", show_default=True, help="Radius of adversarial training.")
@option("--adv-steps", type=click.IntRange(1), default=3, show_default=True, help="Its steps.")
@option("-o", "--output", type=FOLDER, help="Folder of the report; the private folder if absent.")
@labelling
@running
@talking
def verify(release: Path | None, **values: Any) -> int:
    """Train victim models on clean and protected images, print a verdict, write the evidence.

    \b
    medshield verify ./dicoms-protected
    medshield verify ./dicoms-protected --threat determined --seeds 5
    """
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import tables
    from medshield.budget import parse_epsilon
    from medshield.places import Places
    from medshield.verify import VerifyConfig, find_release, write_report
    from medshield.verify import verify as run

    release = release or find_release(Path())
    labels = _annotation_options(values)
    config = VerifyConfig(
        release=release,
        source=values["source"],
        threat=values["threat"],
        cells=tuple(filter(None, (values["cells"] or "").split(","))),
        seeds=values["seeds"],
        seed=values["seed"],
        epochs=values["epochs"],
        image_size=values["image_size"],
        adversary=parse_epsilon(values["adv_eps"]),
        adversary_steps=values["adv_steps"],
        annotations=labels if labels != type(labels)() else None,
        device=values["device"],
        workers=values["workers"],
    )
    evidence = run(config)
    folder = values["output"] or Places(release.resolve()).private / "verify"
    report = write_report(evidence, folder)
    document = json.loads(report.read_text())
    _print(values["as_json"], document, tables.evidence_text(evidence, report))
    return {"protected": 0, "inconclusive": EXIT_UNKNOWN}.get(str(evidence.verdict), EXIT_FAILED)


@cli.command()
@click.argument("source", type=FOLDER)
@option("--sets", help="With SOURCE medmnist: names of its sets, comma-separated.")
@option("--root", type=FOLDER, help="With SOURCE medmnist: folder of NAME.npz; no download.")
@option("--limit", type=click.IntRange(1), help="With SOURCE medmnist: training images.")
@option("-o", "--output", type=FOLDER, default="benchmark.private", show_default=True)
@option("--methods", default="em,advt,synthetic", show_default=True)
@option("--eps", default="8/255,16/255", show_default=True)
@option("--cells", default="resnet18,resnet18:adversarial", show_default=True)
@option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings per arm.")
@option("--seed", type=int, default=0, show_default=True, help="Of keys and victims.")
@option("--epochs", type=click.IntRange(1), help="Of each victim.")
@option("--image-size", type=click.IntRange(32, 2048), help="Side of grid and input, px.")
@option("--adv-steps", type=click.IntRange(1), default=3, show_default=True)
@labelling
@running
@talking
def benchmark(source: Path, output: Path, **values: Any) -> int:
    """Compare methods, eps and ways of training: on MedMNIST sets or on any labelled folder.

    \b
    medshield benchmark ./images --methods em,synthetic --eps 8/255
    medshield benchmark medmnist --sets breastmnist,dermamnist --root ./npz
    """
    _set_up_logging(values["quiet"], values["verbose"], values["log_file"])
    from medshield import benchmark as module
    from medshield import medmnist_folder
    from medshield.budget import parse_epsilon

    sources = {source.name: source}
    if str(source) == "medmnist" and not source.exists():
        names = (values["sets"] or "").split(",")
        sources = {name: output / "sets" / name for name in names}
        for name, folder in sources.items():
            medmnist_folder.export(name, folder, root=values["root"], limit=values["limit"])
    tables = {
        name: module.run(
            module.BenchmarkConfig(
                source=folder,
                output=output / name,
                methods=_chosen(values["methods"], METHOD_NAMES, "--methods"),
                epsilons=tuple(parse_epsilon(text) for text in values["eps"].split(",")),
                cells=tuple(values["cells"].split(",")),
                seeds=values["seeds"],
                epochs=values["epochs"],
                image_size=values["image_size"],
                adversary_steps=values["adv_steps"],
                seed=values["seed"],
                annotations=_annotation_options(values),
                device=values["device"],
                workers=values["workers"],
            )
        )
        for name, folder in sources.items()
    }
    document = {name: table.to_json() for name, table in tables.items()}
    text = "\n\n".join(f"{name}\n{table.to_text()}" for name, table in tables.items())
    _print(values["as_json"], document, text)
    return 0


def _chosen(text: str, choices: tuple[str, ...], name: str) -> tuple[str, ...]:
    """A comma-separated list of known words."""
    words = tuple(text.split(","))
    for word in words:
        if word not in choices:
            raise InputError(f"{name}: {word!r} is none of {', '.join(choices)}")
    return words


def main() -> None:
    """Run the command line and exit with the contract's codes."""
    # Idle worker threads that spin slow a shared machine down tenfold; must be set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    as_json = "--json" in sys.argv
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        code = _failed(error.format_message(), 2, as_json)
    except MedshieldError as error:
        code = _failed(str(error), error.exit_code, as_json)
    except (KeyboardInterrupt, click.Abort):
        message = "interrupted; nothing unfinished was released; run again with --resume to go on"
        code = _failed(message, EXIT_INTERRUPTED, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_UNEXPECTED
    except Exception as error:
        logging.getLogger("medshield").debug("unexpected", exc_info=True)
        message = (
            f"unexpected {type(error).__name__}; run again with --verbose for the place, and "
            "report it"
        )
        code = _failed(message, EXIT_UNEXPECTED, as_json)
    sys.exit(code)


def _failed(message: str, code: int, as_json: bool) -> int:
    click.echo(f"medshield: {message}", err=True)
    if as_json:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    return code
