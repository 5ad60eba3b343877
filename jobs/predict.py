"""Write the classes that a trained model sees in a folder or bucket of images.

    python jobs/predict.py runs/demo PATH/TO/images PATH/TO/out
    python jobs/predict.py s3://BUCKET/EXPERIMENT/rounds/003/checkpoint s3://BUCKET/images s3://BUCKET/out --overlay

The first argument is a checkpoint, or an experiment, whose best model is taken. Every image gets OUT/NAME.png: class
numbers at the image's own size, with a palette to look at. Nothing is overwritten but class maps of this job. Exit code
0: written, and images that cannot be read, or whose class map cannot be written, are named; 2: something must be fixed
first.
"""

import sys

from halo_ray.arguments import JobParser
from halo_ray.bounds import Range
from halo_ray.data.listing import MAX_SIDE
from halo_ray.errors import InputError
from halo_ray.execution import MOST_PROCESSES, ExecutionConfig
from halo_ray.job import exit_code
from halo_ray.predict_images import predict_images
from halo_ray.runtime import ray_session
from halo_ray.secret import redacted, shown


def main(arguments: list[str]) -> int:
    parser = JobParser(description=__doc__)
    parser.add_argument("checkpoint", help="directory or URI of a checkpoint or of an experiment")
    parser.add_argument("images", help="directory or URI with images, or a single file")
    parser.add_argument("out", help="directory or URI for the class maps")
    parser.add_argument("--overlay", action="store_true", help="also write NAME.overlay.png, colours over the image")
    parser.add_argument("--no-flip", action="store_true", help="do not average with the mirror image: twice as fast")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input of the network in pixels")
    parser.add_argument("--on-bad-record", choices=("skip", "fail"), default="skip", help="what unreadable images do")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--max-actors", type=int, default=2, help="the most inference actors; 0: in this process")
    parser.add_argument("--ray-address", help="address of a running Ray cluster")
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(**vars(options)))


def run(
    checkpoint: str,
    images: str,
    out: str,
    overlay: bool,
    no_flip: bool,
    size: list[int] | None,
    on_bad_record: str,
    device: str,
    max_actors: int,
    ray_address: str | None,
) -> None:
    Range(1, MAX_SIDE).check("--size", size)
    Range(0, MOST_PROCESSES).check("--max-actors", max_actors)
    execution = ExecutionConfig(device=device, max_actors=max_actors, ray_address=ray_address, num_workers=0)
    resized = None if size is None else (size[0], size[1])
    with ray_session(execution):
        problems = predict_images(checkpoint, images, out, execution, size=resized, flip=not no_flip, overlay=overlay)
    for problem in problems:
        print(redacted(problem["problem"]), flush=True)
    if problems and on_bad_record == "fail":
        raise InputError(f"{len(problems)} images could not be predicted; the others lie below {out}")
    print(f"Class maps: {shown(out)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
