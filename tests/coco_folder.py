"""A small folder in COCO layout for tests: noise images with boxes of three categories."""

import json

import cv2
import numpy as np

CLASSES = ('disc', 'ring', 'star')


def write_coco_folder(root, num_train=4, num_val=3):
    """Write `annotations/` and images of 96x64 pixels under `root`, and return `root`.

    Every image has one box of each category; ids of categories and images do not start at 0.
    """
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train2017', num_train), ('val2017', num_val)):
        (root / split).mkdir()
        data = {
            'images': [],
            'annotations': [],
            'categories': [{'id': 7 + 2 * i, 'name': name} for i, name in enumerate(CLASSES)],
        }
        for image_id in range(10, 10 + count):
            name = f'{image_id}.png'
            cv2.imwrite(str(root / split / name), rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            data['images'].append({'id': image_id, 'file_name': name, 'width': 96, 'height': 64})
            for category in data['categories']:
                x, y = (int(v) for v in rng.integers(0, 30, 2))
                data['annotations'].append(
                    {
                        'id': len(data['annotations']) + 1,
                        'image_id': image_id,
                        'category_id': category['id'],
                        'bbox': [x, y, 40, 30],
                        'area': 1200,
                        'iscrowd': 0,
                    }
                )
        write_annotations(root, split, data)
    return root


def annotation_file(root, split='train2017'):
    return root / 'annotations' / f'instances_{split}.json'


def read_annotations(root, split='train2017'):
    return json.loads(annotation_file(root, split).read_text())


def write_annotations(root, split, data):
    annotation_file(root, split).write_text(json.dumps(data))
