"""What the page's answers were when they were bought stands in what was received: no later damage to them is silent."""

from __future__ import annotations

from pathlib import Path

from rewritten import begin_stages
from run_that_reads import answers_now, buy
from small_round import CLASSES, ask

from halo_ray.annotations.desk import Desk
from halo_ray.annotations.desk_files import answer_file, read_requests
from halo_ray.annotations.folder import ANSWERS, RECEIVED, folder
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.received import Said, read_lists
from halo_ray.seals import GONE, broken_answers, lost_answers
from halo_ray.stages import Stages
from halo_ray.storage import Storage


def test_answers_that_are_gone_or_changed_after_their_purchase_are_known(tmp_path: Path) -> None:
    storage, of_page = begin_stages(ask(Storage(str(tmp_path)), 3)), dict[str, str]()
    place, regions = folder(storage, 2), read_requests(folder(storage, 2), 2)
    desk = Desk(storage, 2, CLASSES)
    for region_id in regions:
        desk.answer("me", region_id, "sky")
    said: Said = {region_id: [] for region_id in regions}
    assert list(read_lists(place, place.tree(ANSWERS), 2, CLASSES, said, of_page)) == []
    place.write_json(RECEIVED, {"page": of_page})
    buy(storage, 2, answers_now(storage, 2, CLASSES))
    Ledger(storage).seal(2)
    assert list(broken_answers(storage)) == []  # of a round that is not committed yet
    Stages(storage).run("rounds/002/annotate", dict)
    assert list(broken_answers(storage)) == []

    gone, changed, _ = map(answer_file, regions)
    sound = place.read(gone)
    place.delete(gone)
    place.write(changed, place.read(changed).replace(b"sky", b"car"))
    at = "requests/round-002"
    assert lost_answers(storage) == {f"{at}/{gone}": sound}
    found = {each.name: each.what for each in broken_answers(storage)}
    assert set(found) == {f"{at}/{gone}", f"{at}/{changed}"}
    assert found[f"{at}/{gone}"] == GONE
