"""The command line: parse, call, print, exit code. Nothing here knows how anything is done."""

# ruff: noqa: D301 (\b is how click is told that lines stay as they are)
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import click

from medshield import api, cli_exit, processes
from medshield.cli_benchmark import benchmark
from medshield.cli_exit import (
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    complain,
    with_coloured_verdict,
)
from medshield.cli_options import (
    COUNT,
    FOLDER,
    PROTECT,
    SIDE,
    VERIFY,
    engine_options,
    fail_above_option,
    fitting,
    handling_options,
    intensity_option,
    keywords,
    labelling,
    min_ssim_option,
    option,
    preview_option,
    resume_option,
    running,
    source_argument,
    talking,
    uid_option,
    weights_option,
    workers_option,
)
from medshield.cli_talk import set_up, show
from medshield.errors import InputError
from medshield.versions import __version__

SHARED = ("verify", "fit")
"""Commands that several processes may do together."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="medshield")
@click.pass_context
def cli(context: click.Context) -> None:
    """Release medical images that look the same, keep every byte of metadata, and are of no use
    for training a model without permission.

    \b
    medshield scan ./dicoms                                what is there, and the plan
    medshield protect ./dicoms --eps 8/255                 writes ./dicoms-protected
    medshield check ./dicoms-protected                     nothing but pixels, within the bound
    medshield verify ./dicoms-protected                    trains victims, prints a verdict
    medshield card ./dicoms-protected --license ADDRESS    says what it is to those who find it

    Exit codes: 0 done (verify: protected), 1 unexpected, 2 usage or unusable input, 3 done but
    some files were refused, 4 a bound, checksum or verdict failed, 5 verify could not tell,
    130 interrupted.

    Every option also reads MEDSHIELD_<NAME>, such as MEDSHIELD_EPS, and a TOML file (--config);
    the command line wins over the environment, and that over the file.
    """
    command = context.invoked_subcommand
    if processes.current().count > 1 and command not in SHARED:
        raise InputError(
            f"{command} shares no work among processes, only {' and '.join(SHARED)} do; start it "
            "without torchrun"
        )
    context.with_resource(processes.joined())


@cli.command(short_help="Say what is in a folder, and the plan for each file.")
@source_argument
@labelling
@intensity_option
@option("--eps", help="Also say each file's radius, and which are too coarse for it.")
@handling_options
@preview_option
@running
@talking
def scan(source: Path, **values: Any) -> int:
    """Read a folder and write nothing: formats, labels, intensity range, and a plan per file.

    \b
    medshield scan ./dicoms
    medshield scan ./dicoms --eps 8/255 --json
    medshield scan ./dicoms --preview ./look.png
    """
    set_up(values, source)
    from medshield import tables

    target = values.pop("preview")
    if target:
        from medshield import preview

        preview.refuse_target(target, source)
    found = api.scan(source, **keywords(values, "device"))
    document, text = found.to_json(), tables.scan_text(found)
    if target:
        drawn = preview.of_scan(found, target)
        document["preview"] = drawn and drawn.to_json()
        text += "\n" + tables.preview_text(drawn)
    show(values["as_json"], document, text)
    if found.problem:
        complain(found.problem)
        return InputError.exit_code
    return EXIT_REFUSED if found.with_action("refuse") else 0


def _generator_or_method(values: dict[str, Any]) -> None:
    """See to it that a generator's method is its own, whatever environment and file say.

    Raises:
        InputError: the command line names both.
    """
    if not values["generator"]:
        return
    named = click.get_current_context().get_parameter_source("method")
    if named is click.core.ParameterSource.COMMANDLINE:
        raise InputError("--method: the generator has its own; leave one of the two out")
    values["method"] = PROTECT["method"]


@cli.command(short_help="Learn the perturbation and write the release.")
@source_argument
@option("-o", "--output", type=FOLDER, help="The release; SOURCE-protected if absent.")
@fitting
@min_ssim_option
@option("--generator", type=FOLDER, help="Apply this fitted generator (see fit).")
@labelling
@uid_option
@handling_options
@option(
    "--card",
    is_flag=True,
    help="Also write croissant.json and DATACARD.md, which say what the release is (see card).",
)
@option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@resume_option
@option(
    "--shard",
    metavar="I/N",
    help="Write every Nth file alone, beginning with the Ith; then `merge`. Goes on with a share "
    "that was interrupted.",
)
@engine_options
@running
@talking
def protect(source: Path, dry_run: bool, shard: str | None, **values: Any) -> int:
    """Learn the perturbation and write the release.

    \b
    medshield protect ./dicoms --eps 8/255
    medshield protect ./new-images --generator ./dicoms-protected.private/generator
    medshield protect ./dicoms --eps 8/255 --card           with metadata to publish it by
    medshield protect ./dicoms --eps 8/255 --shard 3/8      one of eight jobs of a cluster
    """
    set_up(values, source)
    _generator_or_method(values)
    from medshield import tables
    from medshield.planning import plan
    from medshield.protecting import protect as run

    config = api.protection(source, **keywords(values))
    if dry_run:
        found = plan(config)
        show(values["as_json"], found.to_json(), tables.scan_text(found))
        return EXIT_REFUSED if found.with_action("refuse") else 0
    if shard is not None:
        from medshield.shares import Share, protect_share

        share = protect_share(config, Share.parse(shard))
        show(values["as_json"], share.to_json(), tables.share_text(share))
        return 0
    return _released(run(config), values["as_json"])


def _released(outcome: Any, as_json: bool) -> int:
    from medshield import tables

    show(as_json, outcome.to_json(), tables.outcome_text(outcome))
    return EXIT_REFUSED if outcome.refused else 0


@cli.command(short_help="Complete a release that was written in shares.")
@click.argument("release", type=FOLDER)
@running
@talking
def merge(release: Path, **values: Any) -> int:
    """Complete a release that was written in shares (see protect --shard).

    \b
    medshield protect ./dicoms -o ./release --eps 8/255 --shard 1/2
    medshield protect ./dicoms -o ./release --eps 8/255 --shard 2/2
    medshield merge ./release
    """
    set_up(values)
    return _released(api.merge(release, **keywords(values)), values["as_json"])


@cli.command(short_help="Write Croissant metadata and a data card into a release.")
@click.argument("release", type=FOLDER)
@option("--name", help="Of the data set; that of the folder if absent.")
@option("--license", help="The address of a licence, or its name.")
@option("--creator", help="The organisation that made the data set.")
@option("--contact", help="Whom to ask for permission and for the originals.")
@option("--url", help="Address of the data set's page.")
@option("--published", metavar="YYYY-MM-DD", help="Day of publication.")
@option("--cite-as", help="How to cite it, best as BibTeX.")
@option("--release-version", help="Of the data set, such as 1.0.0.")
@option("--verdict", is_flag=True, help="Also say what verify found, from the private folder.")
@option("--overwrite", is_flag=True, help="Replace a card that was filled in or edited.")
@option("--edited", is_flag=True, help="Keep both files as they are; renew their checksums alone.")
@talking
def card(release: Path, **values: Any) -> int:
    """Write croissant.json and DATACARD.md into a finished release, and their checksums.

    They say what was done to the images and what a user of them must know. What you don't tell
    stays to be filled in. No other file of the release changes.

    \b
    medshield card ./dicoms-protected --license https://example.org/terms --contact data@example.org
    medshield card ./dicoms-protected --config card.toml --verdict --overwrite
    medshield card ./dicoms-protected --edited          after you changed the two files by hand
    """
    set_up(values)
    from medshield import tables

    written = api.card(release, **keywords(values))
    show(values["as_json"], written.to_json(), tables.card_text(written))
    return 0


@cli.command(short_help="Make a BagIt bag of a release.")
@click.argument("release", type=FOLDER)
@option("-o", "--output", type=FOLDER, help="The bag; RELEASE-bag if absent.")
@option(
    "--info",
    multiple=True,
    metavar="'LABEL: TEXT'",
    help="A line of bag-info.txt, such as 'Source-Organization: Example Hospital'. May be "
    "repeated.",
)
@workers_option
@talking
def bag(release: Path, **values: Any) -> int:
    """Make a BagIt bag (RFC 8493) of a finished release, for archives that take bags.

    The release stays as it is. Its files are linked into the bag where the file system can, else
    copied, and compared with SHA256SUMS.

    \b
    medshield bag ./dicoms-protected
    medshield bag ./dicoms-protected -o ./to-archive --info 'Source-Organization: Example Hospital'
    """
    set_up(values)
    from medshield import tables

    made = api.bag(release, **keywords(values))
    show(values["as_json"], made.to_json(), tables.bag_text(made))
    return 0


@cli.command(short_help="Only learn the noise generator, for later use.")
@source_argument
@option("-o", "--output", type=FOLDER, required=True, help="The generator's folder.")
@fitting
@labelling
@handling_options
@option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@resume_option
@running
@talking
def fit(source: Path, dry_run: bool, **values: Any) -> int:
    """Only learn the noise generator, for `protect --generator`.

    \b
    medshield fit ./dicoms -o ./generator --eps 8/255
    medshield fit ./dicoms -o ./generator --eps 8/255 --resume
    """
    set_up(values, source)
    from medshield import tables
    from medshield.fitting import fit as run
    from medshield.planning import plan

    config = api.lesson(source, **keywords(values))
    if dry_run:
        found = plan(config)
        if not processes.current().is_first:
            return 0
        show(values["as_json"], found.to_json(), tables.scan_text(found))
        return EXIT_REFUSED if found.with_action("refuse") else 0
    outcome = run(config)
    if not processes.current().is_first:
        return 0
    show(values["as_json"], outcome.to_json(), tables.fit_text(outcome))
    return EXIT_REFUSED if outcome.refused else 0


@cli.command(short_help="Check a release: nothing but pixels, within the bound.")
@click.argument("release", type=FOLDER)
@option("--source", type=FOLDER, help="The clean images, to compare with.")
@preview_option
@running
@talking
def check(release: Path, source: Path | None, **values: Any) -> int:
    """Re-read every file: checksums, the bound, and nothing but pixels changed.

    \b
    medshield check ./dicoms-protected
    medshield check ./dicoms-protected --source ./dicoms
    medshield check ./dicoms-protected --source ./dicoms --preview ./look.png
    """
    set_up(values, source)
    from medshield import preview, tables

    target = values.pop("preview")
    if target and source is None:
        raise InputError("--preview: needs --source, the clean images to show beside the release")
    if target:
        preview.refuse_target(target, source, release)
    result = api.check(release, source=source, **keywords(values, "device"))
    document, text = result.to_json(), tables.check_text(result)
    if target and source:
        drawn = preview.of_check(result, source, target)
        document["preview"] = drawn and drawn.to_json()
        text += "\n" + tables.preview_text(drawn)
    show(values["as_json"], document, text)
    return 0 if result.passed else EXIT_FAILED


@cli.command(short_help="Train victim models and print a verdict.")
@click.argument("release", type=FOLDER, required=False)
@option("--source", type=FOLDER, help="The clean images; taken from the private folder if absent.")
@option(
    "--threat",
    type=click.Choice(get_args(api.Threat)),
    default=VERIFY["threat"],
    show_default=True,
    help="What the trainer is taken to do; each level includes those below.",
)
@option("--cells", help="Run only these: victim[:training[:countermeasure]], comma-separated.")
@option(
    "--seeds",
    type=COUNT,
    default=VERIFY["seeds"],
    show_default=True,
    help="Trainings per arm.",
)
@option(
    "--most-seeds",
    type=COUNT,
    default=VERIFY["most_seeds"],
    show_default=True,
    help="Trainings per arm of a cell that --seeds leave open.",
)
@option(
    "--seed",
    type=int,
    default=VERIFY["seed"],
    show_default=True,
    help="Of split, victims and drawn patients.",
)
@option("--epochs", type=COUNT, help="Of each victim.")
@option("--image-size", type=SIDE, help="Side of the victims' input, px.")
@option(
    "--adv-eps",
    default=VERIFY["adv_eps"],
    show_default=True,
    help="Radius of adversarial training.",
)
@option(
    "--adv-steps",
    type=COUNT,
    default=VERIFY["adv_steps"],
    show_default=True,
    help="Its steps.",
)
@option("-o", "--output", type=FOLDER, help="Folder of the reports; the private folder if absent.")
@option("--no-pictures", is_flag=True, help="Show no images on report.html, so as to pass it on.")
@option("--junit", type=FOLDER, metavar="FILE", help="Write the cells as JUnit XML there, too.")
@option("--dry-run", is_flag=True, help="Say what would be trained, and how long it would take.")
@fail_above_option
@weights_option
@labelling
@running
@talking
def verify(release: Path | None, dry_run: bool, **values: Any) -> int:
    """Train victim models on clean and protected images, print a verdict, write the evidence.

    \b
    medshield verify ./dicoms-protected
    medshield verify ./dicoms-protected --threat determined --dry-run
    medshield verify ./dicoms-protected --threat determined --seeds 5
    medshield verify ./dicoms-protected --junit verify.xml --fail-above 0.3
    """
    set_up(values, values["source"])
    asked = api.verification(release, **keywords(values, "cells"), cells=values["cells"] or ())
    from medshield import tables
    from medshield.reports.files import REPORT

    if dry_run:
        plan = asked.plan()
        if not processes.current().is_first:
            return 0
        show(values["as_json"], plan.to_json(), "\n".join(plan.lines))
        return 0
    evidence = asked.run()
    if evidence is None:  # this process has trained for the first one
        return 0
    document = json.loads((asked.folder / REPORT).read_text())
    text = with_coloured_verdict(tables.evidence_text(evidence, asked.folder), evidence.verdict)
    show(values["as_json"], document, text)
    if evidence.is_good_enough is None:
        return EXIT_UNKNOWN
    return 0 if evidence.is_good_enough else EXIT_FAILED


cli.add_command(benchmark)


def main() -> None:
    """Run the command line and exit with the contract's codes."""
    # Idle worker threads that spin slow a shared machine down tenfold; must be set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    processes.leave(cli_exit.run(cli))
