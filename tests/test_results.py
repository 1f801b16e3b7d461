"""tools/results.py: the very small set, tables from complete runs; the hook that measures."""

import json
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from coco_folder import read_annotations, write_annotations, write_coco_folder
from mmengine.logging import MessageHub
from run_tool import run_tool

from mmdet_mobileformer.engine import ProcessorTimeHook

ROOT = Path(__file__).parents[1]


def test_subset_keeps_the_first_images_and_the_class_of_the_largest_objects(tmp_path):
    root = write_coco_folder(tmp_path / 'all')
    data = read_annotations(root)
    for box in data['annotations']:
        box['area'] = 1200 + 100 * (box['category_id'] == 9)
    data['images'].reverse()
    write_annotations(root, 'train2017', data)
    assert run_tool('results', 'subset', root, tmp_path / 'few', '--images', 2) == 0
    train = read_annotations(tmp_path / 'few')
    assert [image['id'] for image in train['images']] == [10, 11]
    assert [category['name'] for category in train['categories']] == ['ring']
    assert [(b['image_id'], b['category_id']) for b in train['annotations']] == [(10, 9), (11, 9)]
    val = read_annotations(tmp_path / 'few', 'val2017')
    assert len(val['images']) == 3
    assert {box['category_id'] for box in val['annotations']} == {9}
    assert (tmp_path / 'few' / 'train2017' / '10.png').is_file()


def test_subset_of_no_data_says_so(tmp_path, capsys):
    assert run_tool('results', 'subset', tmp_path / 'none', tmp_path / 'few') == 2
    assert "none has no annotation files in COCO's or Roboflow's layout" in capsys.readouterr().err


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool's names, its output under `tmp_path`."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    names = runpy.run_path(str(ROOT / 'tools' / 'results.py'))
    scope = names['write_tables'].__globals__
    for name, file in (('PAGE', 'page.md'), ('FIGURES', 'figures.json'), ('CURVES', 'curves.png')):
        monkeypatch.setitem(scope, name, tmp_path / file)
    monkeypatch.setitem(scope, 'ROWS', (names['Row']('One, two', 'a.py', seeds=3),))
    return names


def test_tables_show_mean_and_spread_and_leave_the_text(tool, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- bccd -->\nold\n<!-- end of bccd -->\nafter\n')
    for seed, ap in ((0, 0.4), (1, 0.5)):
        folder = tmp_path / 'work' / 'bccd' / 'one_two' / str(seed)
        folder.mkdir(parents=True)
        points = [dict(epoch=e, minutes=e / 2, AP=ap * e / 4, AP_50=0.8, AP_75=0.3) for e in (2, 4)]
        result = dict(complete=True, points=points)
        (folder / 'processor_time.json').write_text(json.dumps(result))
    unfinished = dict(complete=False, points=[dict(points[0], AP=0.9)])
    (tmp_path / 'work' / 'bccd' / 'one_two' / '2').mkdir()
    (tmp_path / 'work/bccd/one_two/2/processor_time.json').write_text(json.dumps(unfinished))
    tool['write_tables'](tmp_path / 'work')
    head, table, tail = page.read_text().split('<!-- ')
    assert (head, tail) == ('before\n', 'end of bccd -->\nafter\n')
    row = '| One, two | 4 | 2.0 | 0.450 (0.400 to 0.500, 2 seeds) | 0.800 | 0.300 |'
    assert row in table
    assert 'old' not in table
    stored = json.loads((tmp_path / 'figures.json').read_text())
    assert set(stored['bccd']['One, two']) == {'0', '1'}
    assert (tmp_path / 'curves.png').stat().st_size > 1000


def test_every_row_names_a_config_and_a_folder_of_its_own():
    names = runpy.run_path(str(ROOT / 'tools' / 'results.py'))
    rows = names['ROWS']
    assert all((ROOT / 'configs' / row.config).is_file() for row in rows)
    assert len({row.folder(Path(), 0) for row in rows}) == len(rows)
    page = (ROOT / 'docs' / 'results.md').read_text()
    assert all(f'<!-- {row.data} -->' in page for row in rows)


def run_epochs(runner, hook, epochs):
    hook.before_train(runner)
    for epoch in epochs:
        time.process_time.now += 1000  # validation, and what else lies between epochs
        hook.before_train_epoch(runner)
        for _ in range(2):
            time.process_time.now += 30
            hook.after_train_iter(runner, 0)
            runner.iter += 1
        runner.epoch = epoch
        figures = {f'coco/bbox_m{n}': epoch / 10 for n in ('AP', 'AP_50', 'AP_75')}
        hook.after_val_epoch(runner, figures)


def test_processor_time_counts_training_alone_and_goes_on_in_a_resumed_run(tmp_path, monkeypatch):
    def clock():
        return clock.now

    clock.now = 0
    monkeypatch.setattr(time, 'process_time', clock)
    hub = MessageHub.get_instance('processor_time')
    runner = SimpleNamespace(work_dir=tmp_path, message_hub=hub, iter=0, epoch=0, max_epochs=3)
    run_epochs(runner, ProcessorTimeHook(), [1, 2])
    result = json.loads((tmp_path / 'processor_time.json').read_text())
    assert not result['complete']
    # Resumed from the checkpoint of epoch 2, which holds the message hub.
    resumed = MessageHub('resumed')
    resumed.load_state_dict(hub.state_dict())
    runner.message_hub = resumed
    run_epochs(runner, ProcessorTimeHook(), [3])
    result = json.loads((tmp_path / 'processor_time.json').read_text())
    assert result['complete']
    found = [(point['epoch'], point['minutes'], point['AP']) for point in result['points']]
    assert found == [(1, 1.0, 0.1), (2, 2.0, 0.2), (3, 3.0, 0.3)]
