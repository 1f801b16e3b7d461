"""Layouts of folders of annotated images: COCO's, Roboflow's, YOLO's and Pascal VOC's."""

import shlex
from pathlib import Path

BESIDE_IMAGES = '_annotations.coco.json'  # Roboflow's name
_NAMES = {'train': ('train',), 'val': ('valid', 'val'), 'test': ('test', 'valid', 'val')}
_CONVERTER = '.venv_converter'  # below the folder that the user is in


def coco_layout(split: str) -> tuple[str, str]:
    """Annotation file and image folder of a split as COCO names them; 'val' serves for tests."""
    name = 'train2017' if split == 'train' else 'val2017'
    return f'annotations/instances_{name}.json', f'{name}/'


def find_annotations(data_root: str, split: str) -> tuple[str, str] | None:
    """Annotation file and image folder of a split, in COCO format.

    Known are :func:`coco_layout` and Roboflow's: ``_annotations.coco.json`` among the images of
    ``train/``, ``valid/`` and ``test/``, or of YOLO's folders of images.

    Returns:
        Both relative to the folder; None if there is no such file.
    """
    if (Path(data_root) / coco_layout(split)[0]).is_file():
        return coco_layout(split)
    for images, _ in _folders(split):
        if (Path(data_root) / images / BESIDE_IMAGES).is_file():
            return f'{images}/{BESIDE_IMAGES}', f'{images}/'
    return None


def how_to_convert(data_root: str) -> str | None:
    """Which other layout a folder has and the command that converts it; None for an unknown one.

    After the command the same folder is in a layout that :func:`find_annotations` knows. The
    libraries get an environment of their own, so that they change no other one.
    """
    root = Path(data_root)
    for layout, command in (('YOLO', _from_yolo(root)), ('Pascal VOC', _from_voc(root))):
        if command:
            library = 'globox' if 'globox' in command else 'supervision'
            return (
                f'{data_root} is in the layout of {layout}; convert it to COCO format by this '
                f'command, then run again:\n  python3 -m venv {_CONVERTER} && '
                f'{_CONVERTER}/bin/pip install {library} && {command}'
            )
    return None


def _folders(split: str) -> list[tuple[str, str]]:
    """Where a split's images may be, and where YOLO would keep their labels."""
    layouts = (('{}', '{}'), ('images/{}', 'labels/{}'), ('{}/images', '{}/labels'))
    return [
        (images.format(name), labels.format(name))
        for name in _NAMES[split]
        for images, labels in layouts
    ]


def _from_yolo(root: Path) -> str | None:
    found = []
    for split in _NAMES:
        pairs = [pair for pair in _folders(split) if any((root / pair[1]).glob('*.txt'))]
        found += [pair for pair in pairs[:1] if (root / pair[0]).is_dir() and pair not in found]
    names = next((str(path) for path in sorted(root.glob('*.y*ml'))), str(root / 'data.yaml'))
    read = 'supervision.DetectionDataset.from_yolo'
    if found:
        folders = [tuple(str(root / folder) for folder in pair) for pair in found]
        return _python(
            f'[{read}(images, labels, {names!r})'
            f".as_coco(annotations_path=images + '/{BESIDE_IMAGES}') "
            f'for images, labels in {folders}]'
        )
    if any((root / 'labels').glob('*.txt')) and (root / 'images').is_dir():
        return _split(root, f"{read}('{root}/images', '{root}/labels', {names!r})")
    return None


def _from_voc(root: Path) -> str | None:
    images, annotations = root / 'JPEGImages', root / 'Annotations'
    if any(annotations.glob('*.xml')) and images.is_dir():
        lists = [root / 'ImageSets/Main' / f'{split}.txt' for split in ('train', 'val')]
        if not all(path.is_file() for path in lists):
            read = 'supervision.DetectionDataset.from_pascal_voc'
            return _split(root, f"{read}('{images}', '{annotations}')")
        place = shlex.quote(str(root))
        return (
            f'for s in train val; do mkdir -p {place}/$s && '
            f'for n in $(cat {place}/ImageSets/Main/$s.txt); do '
            f'cp {place}/JPEGImages/$n.* {place}/Annotations/$n.xml {place}/$s; done && '
            f'{_globox(f"{place}/$s")}; done'
        )
    found = []
    for split in _NAMES:
        folders = [images for images, _ in _folders(split) if any((root / images).glob('*.xml'))]
        found += [folder for folder in folders[:1] if folder not in found]
    return ' && '.join(_globox(shlex.quote(str(root / folder))) for folder in found) or None


def _globox(folder: str) -> str:
    """Convert VOC files beside their images, with the classes in alphabetical order."""
    return (
        f'{_CONVERTER}/bin/globox convert {folder} {folder}/{BESIDE_IMAGES} '
        f'-f pascalvoc -d {folder} -F coco -A'
    )


def _split(root: Path, data_set: str) -> str:
    """Write a random fifth of a data set for validation, the rest to train on.

    The classes stay those of the whole data set.
    """
    return _python(
        f"[part.as_coco('{root}/' + name, '{root}/' + name + '/{BESIDE_IMAGES}') for name, part in "
        f"zip(('train', 'valid'), {data_set}.split(0.8, random_state=0))]"
    )


def _python(expression: str) -> str:
    return f'{_CONVERTER}/bin/python -c "import supervision; {expression}"'
