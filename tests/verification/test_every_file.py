"""Every file of a finished experiment in some state of damage, and one of each kind in all of them: verify names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage_matrix import DAMAGES, damaged, files, is_named, put

from halo_ray.config import Config
from halo_ray.storage import Storage
from halo_ray.verification.verify import verify_experiment


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named(damage: str, copy: Storage, experiment: Config) -> None:
    whole, here = Path(experiment.output_dir), Path(copy.root)
    every, kinds, tried = list(files(whole)), set(), 0
    for number, name in enumerate(every):
        mine = list(DAMAGES)[number % len(DAMAGES)] == damage or Path(name).suffix not in kinds
        kinds.add(Path(name).suffix)
        data, sound = damaged(damage, name, whole), (whole / name).read_bytes()
        if not mine or data == sound:
            continue
        put(data, here / name)
        places = {found.place: found.what for found in verify_experiment(copy.uri).wrong}
        assert is_named(name, {*places}), f"{name}: {places}"
        if damage == "deleted":
            assert "gone" in "".join(what for place, what in places.items() if is_named(name, {place}))
        (here / name).write_bytes(sound)
        tried += 1
    assert tried > (0 if damage == "namesake" else len(every) // len(DAMAGES))
