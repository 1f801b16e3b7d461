"""What the tests of the data check share: a config on a folder, edits of it, what is found."""

from coco_folder import CLASSES, annotation_file, read_annotations, write_annotations
from mmengine.config import Config

from mmdet_mobileformer.data_check.check import check_data


def make_cfg(root, classes=CLASSES, num_classes=3, filter_empty_gt=True):
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(root),
                ann_file=f'annotations/instances_{folder}.json',
                data_prefix=dict(img=f'{folder}/'),
                filter_cfg=dict(filter_empty_gt=filter_empty_gt),
                metainfo=dict(classes=classes),
            )
        )
        for split, folder in (('train', 'train2017'), ('val', 'val2017'))
    }
    evaluator = dict(type='CocoMetric', ann_file=str(annotation_file(root, 'val2017')))
    loaders['val_evaluator'] = evaluator
    return Config(dict(model=dict(bbox_head=dict(num_classes=num_classes)), **loaders))


def find(root, **settings):
    return check_data(make_cfg(root, **settings), ('train', 'val'))


def edit(root, change, split='train2017'):
    data = read_annotations(root, split)
    change(data)
    write_annotations(root, split, data)


def assert_one_error(root, *words, **settings):
    errors = find(root, **settings).errors
    assert len(errors) == 1, errors
    for word in words:
        assert str(word) in errors[0]
