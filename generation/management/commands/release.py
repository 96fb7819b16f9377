"""`manage.py release …`: releases from the shell."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize
from django.utils.formats import date_format
from tqdm import tqdm

from generation.catalogue import bundled_embeddings
from generation.engine.release import KINDS, Progress
from generation.errors import GenerationError
from generation.models import TRIES_LIMIT, PromptVariant, Release
from generation.releases import activation, coverage, quality, registration, specialists
from generation.releases import lifecycle as releases

OPTIONS = ("kind", "steps", "guidance_scale", "noise_scheduler", "image_sizes")


def image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{1,3})x([1-9]\d{1,3})", text)
    if not match:
        raise ArgumentTypeError(f"{text!r}: give WIDTHxHEIGHT in pixels, such as 512x512")
    width, height = int(match[1]), int(match[2])
    if width % 8 or height % 8:
        raise ArgumentTypeError(f"{text!r}: width and height must be multiples of 8")
    return width, height


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text!r}: give a share from 0 to 1, such as 0.5")
    return value


class Command(BaseCommand):
    help = "Register, list, verify, activate, retire, roll back, reject and export releases."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        register = actions.add_parser(
            "register",
            help="register a release as a candidate",
            description="A release folder is registered unchanged. A diffusers folder of Stable Diffusion 1.x or 2.x, "
            "or a Hugging Face hub id, is copied and converted first; the options apply only to these.",
        )
        register.add_argument("source", help="a folder, or a hub id (owner/name)")
        register.add_argument("--name", help="default: the name of the folder")
        register.add_argument("--kind", choices=KINDS, help="default: teacher")
        register.add_argument("--steps", type=int, help="number of steps; default: 30")
        register.add_argument(
            "--guidance",
            type=float,
            dest="guidance_scale",
            help="guidance scale, 1 for none; default: 7.5",
        )
        register.add_argument(
            "--noise-scheduler",
            help="ddim (default), dpmsolver++, unipc, euler, lcm or tcd",
        )
        register.add_argument(
            "--image-size",
            type=image_size,
            action="append",
            dest="image_sizes",
            metavar="WIDTHxHEIGHT",
            help="image size; repeatable, the first is the default",
        )
        actions.add_parser("list", help="list all releases")
        parsers = {}
        for action, text in (
            ("verify", "compare the files of a release with its manifest"),
            ("activate", "serve a release instead of the active one of its kind"),
            ("retire", "end the service of a specialist"),
            ("reject", "exclude a release from serving permanently"),
        ):
            parsers[action] = actions.add_parser(action, help=text)
            parsers[action].add_argument("name")
        parsers["activate"].add_argument(
            "--specialist",
            action="store_true",
            help="serve a student beside the active one, for the prompts that it makes better",
        )
        canary = actions.add_parser(
            "canary", help="serve a share of the active release's jobs with this one"
        )
        canary.add_argument("name")
        canary.add_argument(
            "--percent", type=int, help="default: CANARY_PERCENT; 0 ends the canary", metavar="P"
        )
        tries = actions.add_parser(
            "tries",
            help="set the maximum number of pictures that are generated for an image until the detector accepts one",
            description="0: images are not checked; 1: checked and flagged; N: rejected images are generated again "
            "with other seeds, up to N times in all.",
        )
        tries.add_argument("name")
        tries.add_argument("tries", type=int, choices=range(TRIES_LIMIT + 1), metavar="N")
        floor = actions.add_parser(
            "floor",
            help="set the share of right pictures below which a better teacher serves instead of a student",
            description="A prompt variant may have its own (in the admin). Without SHARE: the setting QUALITY_FLOOR.",
        )
        floor.add_argument("name")
        floor.add_argument("share", type=share, nargs="?", metavar="SHARE", help="0 to 1")
        rollback = actions.add_parser(
            "rollback", help="activate the release again that the active one replaced"
        )
        rollback.add_argument("kind", choices=KINDS)
        export = actions.add_parser(
            "export",
            help="write a release as a plain fp16 folder for diffusers",
            description="The text encoder is taken from a registered release that has it.",
        )
        export.add_argument("name")
        export.add_argument("target", type=Path, help="folder to write, which must not exist")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, options["action"])(options)
        except GenerationError as error:
            raise CommandError(error.detail) from error

    def register(self, options: dict[str, Any]) -> None:
        given = {name: options[name] for name in OPTIONS if options[name] is not None}
        if "image_sizes" in given:
            given["image_sizes"] = tuple(given["image_sizes"])
        converting = None
        if given:
            from generation.engine.importing import Options  # torch takes seconds to import

            converting = Options(**given)
        with self.progress("Reading") as on_progress:
            release = registration.register(
                options["source"],
                name=options["name"],
                options=converting,
                on_progress=on_progress,
            )
        bundled_embeddings.store(release)
        self.stdout.write(
            f"Registered {release.name} ({release.kind}, {_megabytes(release.size_bytes)}) in "
            f"{releases.folder(release)}.\nServe it with: manage.py release activate {release.name}"
        )

    def list(self, options: dict[str, Any]) -> None:
        rows = list(Release.objects.order_by("kind", "-registered_at"))
        if not rows:
            self.stdout.write("No releases. Register one: manage.py release register DIR")
            return
        width = max(len(release.name) for release in rows)
        for release in rows:
            size = "×".join(str(side) for side in release.image_sizes[0])
            steps = release.num_inference_steps
            self.stdout.write(
                f"{release.name:<{width}}  {release.kind:<7}  {_status(release):<12}  "
                f"{steps:>3} {f'step{pluralize(steps)}':<5}  {size:>9}  {_megabytes(release.size_bytes):>8}  "
                f"{date_format(release.registered_at, 'DATETIME_FORMAT')}"
            )

    def verify(self, options: dict[str, Any]) -> None:
        release = _find(options["name"])
        with self.progress("Verifying") as on_progress:
            manifest = releases.verify(release, on_progress)
        count = len(manifest.files)
        self.stdout.write(
            f"{release.name}: {pluralize(count, f'the file matches,all {count} files match')} the manifest."
        )

    def activate(self, options: dict[str, Any]) -> None:
        release = _find(options["name"])
        with self.progress("Verifying") as on_progress:
            releases.verify(release, on_progress)
        if options["specialist"]:
            release = activation.activate_specialist(release)
            self.stdout.write(
                f"{release.name} is a specialist: it serves the prompts for which it is the best student."
            )
            return
        release = activation.activate(release)
        replaced = f", which replaces {release.replaced.name}" if release.replaced else ""
        self.stdout.write(f"The active {release.kind} is {release.name}{replaced}.")

    def canary(self, options: dict[str, Any]) -> None:
        release, percent = _find(options["name"]), options["percent"]
        if percent == 0:
            releases.end_canary(release)
            self.stdout.write(f"The canary {release.name} has ended.")
            return
        release = activation.begin_canary(release, percent or settings.CANARY_PERCENT)
        self.stdout.write(
            f"{release.name} serves {release.canary_percent} % of the jobs of the active {release.kind}."
        )

    def tries(self, options: dict[str, Any]) -> None:
        release = quality.edit(_find(options["name"]), "max_tries", options["tries"])
        self.stdout.write(
            f"{release.name}: at most {options['tries']} tr{pluralize(options['tries'], 'y,ies')} per image."
        )

    def floor(self, options: dict[str, Any]) -> None:
        release = quality.edit(_find(options["name"]), "quality_floor", options["share"])
        said = (
            "the setting QUALITY_FLOOR"
            if release.quality_floor is None
            else f"{release.quality_floor:g}"
        )
        self.stdout.write(f"{release.name}: its floor of quality is {said}.")

    def rollback(self, options: dict[str, Any]) -> None:
        release = releases.rollback(options["kind"])
        self.stdout.write(f"The active {release.kind} is {release.name} again.")

    def retire(self, options: dict[str, Any]) -> None:
        release = specialists.retire(_find(options["name"]))
        self.stdout.write(f"{release.name} is retired: other releases make its prompts.")

    def reject(self, options: dict[str, Any]) -> None:
        release = releases.reject(_find(options["name"]))
        self.stdout.write(f"{release.name} was rejected and will not be served.")

    def export(self, options: dict[str, Any]) -> None:
        release, target = _find(options["name"]), options["target"].absolute()
        if target.exists():
            raise CommandError(f"{target} already exists. Give a new folder.")
        holder = releases.encoder_holder(release)
        if holder is None:
            raise CommandError(
                f"{release.name} needs the text encoder {release.encoder_fingerprint[:12]}…, which no registered "
                f"release has. Register its teacher ({release.manifest['parent'] or 'with its encoder'}) first."
            )
        with self.progress("Verifying") as on_progress:
            releases.verify(release, on_progress)
        # Imported here because it loads torch.
        from generation.engine import exporting
        from generation.engine.errors import ReleaseInvalid

        self.stderr.write(f"Writing {target} …", lambda plain: plain)
        try:
            exporting.export(releases.folder(release), target, encoder_dir=releases.folder(holder))
        except ReleaseInvalid as error:
            raise CommandError(error.detail) from error
        except OSError as error:
            raise CommandError(
                f"{target}: {error.strerror or error}. Give another folder."
            ) from error
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        self.stdout.write(
            f"Exported {release.name} to {target} ({_megabytes(size)}, fp16). Load it with diffusers:\n\n"
            "    from diffusers import StableDiffusionPipeline\n"
            f'    pipe = StableDiffusionPipeline.from_pretrained("{target}")\n'
            f'    pipe("{_example(release)}", num_inference_steps={release.num_inference_steps}, '
            f"guidance_scale={release.manifest['guidance_scale']:g}).images[0]"
        )

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Show a bar in bytes on stderr if that is a terminal."""
        with tqdm(
            desc=what, unit="B", unit_scale=True, file=self.stderr, disable=None, leave=False
        ) as bar:

            def on_progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield on_progress


def _status(release: Release) -> str:
    return f"canary {release.canary_percent} %" if release.canary_percent else release.status


def _find(name: str) -> Release:
    release = Release.objects.filter(name=name).first()
    if release is None:
        names = ", ".join(Release.objects.values_list("name", flat=True)[:20]) or "none"
        raise CommandError(f"There is no release {name!r}. Registered: {names}.")
    return release


def _example(release: Release) -> str:
    """Return the text of a variant that the release covers."""
    variants = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    found = coverage.covered(release, variants).order_by("slug").first()
    return found.text if found else "a text of the catalogue"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
