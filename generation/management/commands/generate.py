"""`manage.py generate`: run the engine without queue and server, and report its times."""

import json
import secrets
import time
from argparse import ArgumentParser
from collections.abc import Collection
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from generation.engine.errors import EngineError
from generation.engine.files import FORMATS, encode
from generation.errors import GenerationError
from generation.jobs import routing
from generation.jobs.job_request import SEED_LIMIT
from generation.releases import lifecycle as releases


class Command(BaseCommand):
    help = "Generate images of one prompt variant without queue and server, and report the time of each step."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--release", help="student, teacher or a name; default: the active one")
        parser.add_argument("--variant", required=True, help="slug of an active prompt variant")
        parser.add_argument("--seed", type=int, help="seed of the first image; default: random")
        parser.add_argument("--count", type=int, default=1, help="number of images; default: 1")
        parser.add_argument("--batch", type=int, default=8, help="images per batch; default: 8")
        parser.add_argument(
            "--out", type=Path, default=Path("out"), help="output folder; default: out"
        )
        parser.add_argument("--format", choices=FORMATS, default="webp")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("count", "batch"):
            if options[name] < 1:
                raise CommandError(f"--{name} must be at least 1.")
        seed = options["seed"]
        if seed is None:
            seed = secrets.randbelow(SEED_LIMIT - options["count"])
        if not 0 <= seed <= SEED_LIMIT - options["count"]:
            raise CommandError(f"--seed must be from 0 to {SEED_LIMIT - options['count']}.")
        try:
            report = self.generate(seed, options)
        except (GenerationError, EngineError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(
                f"{options['out']}: {error.strerror}. Give another --out."
            ) from error
        if options["json"]:
            self.stdout.write(json.dumps(report))
        else:
            self.show(report)

    def generate(self, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        route = routing.resolve(options["release"], slug=options["variant"])
        variant, release = route.variant, route.release
        started = time.perf_counter()
        # Imported here because it loads torch: errors in the options are reported first.
        from generation.engine import pipeline
        from generation.engine.request import GenerationRequest, Timings

        import_seconds = time.perf_counter() - started
        started = time.perf_counter()
        loaded = pipeline.load(
            releases.folder(release),
            device=settings.DEVICE,
            dtype=settings.DTYPE,
            threads=settings.TORCH_THREADS,
            runtime=settings.RUNTIME,
            cache=settings.RUNTIMES_DIR,
        )
        load_seconds = time.perf_counter() - started
        stored = route.embedding.stored()
        wide, high = release.image_sizes[0]
        count = options["count"]
        requests = [GenerationRequest(stored, seed + index, wide, high) for index in range(count)]
        options["out"].mkdir(parents=True, exist_ok=True)
        timings = Timings()
        file_seconds = 0.0
        paths: list[str] = []
        total = -(-count // options["batch"]) * release.num_inference_steps
        with tqdm(
            desc="Generating", unit="step", total=total, file=self.stderr, disable=None, leave=False
        ) as bar:

            def on_step(step: int, steps: int) -> Collection[int]:
                bar.update()
                return ()

            for start in range(0, count, options["batch"]):
                part = requests[start : start + options["batch"]]
                for result in loaded.generate(part, on_step=on_step, timings=timings):
                    if result.pixels is None:
                        raise result.error or EngineError
                    started = time.perf_counter()
                    content = encode(result.pixels, options["format"])
                    file_seconds += time.perf_counter() - started
                    name = f"{variant.slug}-{result.request.seed}.{options['format']}"
                    path = options["out"] / name
                    path.write_bytes(content)
                    paths.append(str(path.resolve()))
        return {
            "release": release.name,
            "variant": variant.slug,
            "text": variant.text,
            "device": loaded.describe(),
            "runtime": loaded.runtime.name,
            "seed": seed,
            "count": count,
            "batches": timings.batches,
            "num_inference_steps": release.num_inference_steps,
            "import_seconds": round(import_seconds, 4),
            "load_seconds": round(load_seconds, 4),
            "unet_seconds_per_image": round(timings.unet_seconds / count, 5),
            "decoder_seconds_per_image": round(timings.decoder_seconds / count, 5),
            "file_seconds_per_image": round(file_seconds / count, 5),
            "peak_memory_bytes": loaded.device.peak_memory_bytes(),
            "files": paths,
        }

    def show(self, report: dict[str, Any]) -> None:
        per_image = {
            part: report[f"{part}_seconds_per_image"] for part in ("unet", "decoder", "file")
        }
        steps = report["num_inference_steps"]
        self.stdout.write(
            f"“{report['text']}” by {report['release']} on {report['device']}\n"
            f"load          {report['load_seconds']:.2f} s (and {report['import_seconds']:.2f} s for imports)\n"
            f"per image     {sum(per_image.values()):.3f} s: U-Net {per_image['unet']:.3f} s "
            f"({steps} step{pluralize(steps)}), decoder {per_image['decoder']:.3f} s, "
            f"file {per_image['file']:.4f} s\n"
            f"batches       {', '.join(str(size) for size in report['batches'])}\n"
            f"peak memory   {report['peak_memory_bytes'] / 2**20:.0f} MiB\n"
            + "\n".join(report["files"])
        )
