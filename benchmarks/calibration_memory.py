"""Memory and time of an INT8 build against the number of images: ``python benchmarks/calibration_memory.py IMAGES``.

densenet121 with random weights; IMAGES, a folder of photographs, is repeated, mirrored and shifted, until there are 512
different ones. Each build runs as a user types it, with nothing cached; peak memory is that of its whole process tree.
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageOps
from processes import watched

COUNTS = (64, 512)
BUILD = ["build", "--arch", "densenet121", "--weights", "random", "--int8", "--no-bench", "--json"]
TARGET = ["--target", "onnxruntime:cpu", "--allow-execution", "f32"]


def main() -> None:
    sources = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        for number in range(COUNTS[-1]):
            varied(sources[number % len(sources)], number // len(sources)).save(pictures / f"{number:04}.jpg")
        print("| calibration images | seconds of calibrating | of quantizing | peak memory of the build, GB |")
        print("|---|---|---|---|", flush=True)
        for count in COUNTS:
            (folder / str(count)).mkdir()
            data = ["--calibration-data", str(pictures), "--calibration-images", str(count)]
            done = watched([sys.executable, "-m", "dnexport.cli", *BUILD, *TARGET, *data], folder / str(count))
            if done.code:
                sys.exit(done.errors)
            stages = json.loads(done.output)["stages"]
            seconds = [stages[stage]["seconds"] for stage in ("calibrate", "quantize")]
            print(f"| {count} | {seconds[0]:.0f} | {seconds[1]:.0f} | {done.peak_bytes / 1e9:.2f} |", flush=True)


def varied(source: Path, variant: int) -> Image.Image:
    """Another picture for each variant: mirrored where odd, shifted by as many pixels."""
    image = Image.open(source).convert("RGB")
    image = ImageOps.mirror(image) if variant % 2 else image
    return ImageChops.offset(image, 8 * variant, 0)


if __name__ == "__main__":
    main()
